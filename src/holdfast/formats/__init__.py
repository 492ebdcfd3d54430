"""Views of a state for other programs: pure functions from tree to tree."""
