"""The figures of the queue, and its problems, for the overview of the admin and for programs that watch.

Plain functions take the alias of a database and read a bounded number of rows; their docstrings say how many. stats.py
reads all of them at once, each within a time limit; in_time.py keeps to the time of its caller. metrics.py makes
metrics of its figures, which prometheus.py and urls.py serve. conditions.py judges them, for the overview, doctor/,
pgonly_health and health_checks.py, which is for django-health-check.
"""
