"""The doctor in the admin: the same findings as `manage.py pgonly_doctor`."""
