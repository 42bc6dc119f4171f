"""One HTML page about runs and batches that needs nothing else: figures, tables, words and the commands behind them (docs/report.md)."""
