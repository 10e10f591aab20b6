"""Answers given before: whether a question may be looked up, what may be kept of a run, and answers for all users."""
