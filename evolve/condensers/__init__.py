"""Condensers: from an ancestor, which of its integral layers are the learngene."""
