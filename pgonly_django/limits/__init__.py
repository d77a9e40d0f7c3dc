"""Limits of what jobs, and everything else, may do: limiters, which all processes share."""
