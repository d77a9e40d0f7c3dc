"""What is wrong with the database, the settings and the workers, and what to do about it.

One file per subject, with conditions and the parts that find them: functions that take the alias of a database and
yield a Finding each. `examination.py` lists them. For `manage.py pgonly_doctor` and its page in the admin.
"""
