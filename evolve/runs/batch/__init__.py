"""A batch: a grid of lineages over one scenario, run on one store, compared in one table (docs/batches.md)."""
