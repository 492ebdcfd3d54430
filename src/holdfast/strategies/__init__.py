"""How the state of a run is held by its processes: taken from them, and put back."""
