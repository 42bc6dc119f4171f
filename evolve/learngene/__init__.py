"""The learngene: the artifact that a stranger can open, and how it is inherited."""
