"""A batch: a grid of lineages over one scenario, run on one store and compared in one table."""
