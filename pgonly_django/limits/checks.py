"""System check of PGONLY["LIMITERS"]: E401."""

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import settings
from pgonly_django.limits.declarations import limits_of


def check_limiters(**_: Any) -> list[checks.CheckMessage]:
    """E401: an entry has an unknown key or a wrong value."""
    try:
        entries = settings().limiters
    except ImproperlyConfigured:  # E001 says so
        return []
    found: list[checks.CheckMessage] = []
    for name, entry in entries.items():
        try:
            limits_of(name, entry)
        except ImproperlyConfigured as error:
            found.append(
                checks.Error(str(error), hint="See docs/how-to/limits.md#checks.", id="pgonly_django.E401")
            )
    return found
