"""Claims of limited jobs. In the order in which they are read: claim.py, look.py, turns.py, gates.py."""
