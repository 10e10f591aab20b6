"""Recall memory: every message ever seen, the window a prompt holds of them, and search in all of them."""
