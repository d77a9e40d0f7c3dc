"""Settings. Those of `together.py` have every package that gets along with the others."""
