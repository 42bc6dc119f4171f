"""What a lineage shows: curves, tests, figures, tables, TensorBoard, page. It knows no run."""
