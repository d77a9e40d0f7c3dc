"""What Django's admin shows. One module per table; importing it registers it."""

from pgonly_django.admin import jobs, sessions, workers

__all__ = ["jobs", "sessions", "workers"]
