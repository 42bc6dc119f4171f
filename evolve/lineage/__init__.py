"""The experiment: generation by generation, which stage hangs from which."""
