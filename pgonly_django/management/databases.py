"""Which database a command asks for jobs."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import connections, router

from pgonly_django.management.jobs.selection import nearest
from pgonly_django.models import Job


def job_database(alias: str | None) -> str:
    """The alias, or where the router keeps jobs. Raises CommandError where it is none of DATABASES."""
    found: str = alias or router.db_for_write(Job)
    if found not in connections:
        hint = nearest(found, list(connections))
        raise CommandError(f"--database {found!r} is not in DATABASES{hint}", returncode=2)
    return found
