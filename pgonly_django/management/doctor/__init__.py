"""The report of pgonly_doctor as text."""
