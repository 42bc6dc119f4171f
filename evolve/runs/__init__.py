"""A run: opened, executed, its folder, its screens, its cost; garbage; batches."""
