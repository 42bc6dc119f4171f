"""A lineage's curve in W&B and MLflow: what TensorBoard gets, under the same names."""
