"""One HTML page about runs and batches that needs nothing else (docs/report.md).

It holds figures, tables, words and the commands behind them.
"""
