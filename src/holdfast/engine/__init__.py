"""Move state between a running training and a store. Knows torch; knows no trainer."""
