"""The descendants: networks that inherit a learngene and learn tasks of their own."""
