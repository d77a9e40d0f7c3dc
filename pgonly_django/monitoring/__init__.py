"""Figures of what goes on, for the overview of the admin and for programs that watch.

Plain functions, one file per subject. Each takes the alias of a database and reads a bounded number of rows; its
docstring says how many.
"""
