"""Stages and their results: store, workers, cluster. It knows no lineage."""
