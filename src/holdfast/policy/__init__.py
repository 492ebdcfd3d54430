"""Decide: when to save, which checkpoints to keep, what of the state, and where. Pure; the standard library alone."""
