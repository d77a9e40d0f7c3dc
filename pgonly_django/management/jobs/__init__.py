"""The parts of `manage.py pgonly_jobs`.

selection   the flags that choose jobs, and the nearest name of one that there is not
output      jobs as lines and as JSON
changes     the verbs, in batches, after a question
"""
