"""The doctor finds what only this package can know to be wrong, and says what to do about it. `examination.py` lists
its parts: functions that take the alias of a database and yield findings."""
