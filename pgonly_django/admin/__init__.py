"""What Django's admin shows. One module per table; importing it registers it."""

from pgonly_django.admin import cache, jobs, sessions, workers

__all__ = ["cache", "jobs", "sessions", "workers"]
