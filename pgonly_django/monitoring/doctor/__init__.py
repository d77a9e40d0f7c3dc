"""What is wrong with the database, the settings and the workers, and what to do about it.

One file per subject. Each has functions that take the alias of a database and yield a Finding for each condition that
they find; `subjects.py` lists them. For `manage.py pgonly_doctor` and its page in the admin.
"""
