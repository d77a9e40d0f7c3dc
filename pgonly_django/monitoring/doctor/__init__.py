"""Finds problems of the database, the settings and the workers, and says what to do about them.

One file per subject has conditions and the parts that find them: functions that take the alias of a database and yield
a Finding each. `examination.py` lists them. For `manage.py pgonly_doctor` and its page in the admin.
"""
