"""Run: the loop around the floors below. A part gets the values that it needs, never the trainer to reach through."""
