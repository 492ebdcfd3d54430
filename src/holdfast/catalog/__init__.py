"""Know what a checkpoint is, and what a folder of them holds. Needs no torch."""
