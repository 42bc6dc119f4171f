"""evolve: a continual-learning simulator for the accumulate phase of Learngene."""

__version__ = "0.1.0"
