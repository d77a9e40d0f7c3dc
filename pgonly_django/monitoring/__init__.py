"""Figures of what goes on, for the overview of the admin and for programs that watch.

Plain functions, one file per subject. Each takes the alias of a database and reads a bounded number of rows; its
docstring says how many. stats.py reads all of them at once, each within a limit of time. Of its figures metrics/ makes
metrics, which prometheus.py and views.py serve; in_time.py keeps to the time of who asks. health_checks.py is for
django-health-check.
"""
