"""Figures of what goes on, and what is wrong, for the overview of the admin and for programs that watch.

Plain functions take the alias of a database and read a bounded number of rows; their docstrings say how many. stats.py
reads all of them at once, each within a limit of time; in_time.py keeps to the time of who asks. Of its figures
metrics.py makes metrics, which prometheus.py and urls.py serve. conditions.py judges them, for the overview, doctor/,
pgonly_health and health_checks.py, which is for django-health-check.
"""
