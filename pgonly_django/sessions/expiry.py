"""How long a session may live: what set_expiry() accepts, within bounds that dates, cookies and PostgreSQL hold."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.utils import timezone

from pgonly_django.conf import LONGEST

LONGEST_SECONDS = int(LONGEST / timedelta(seconds=1))


def checked(value: Any) -> Any:
    """`value` as SessionBase.set_expiry() can keep it. Raises TypeError or ValueError for what is no expiry."""
    if isinstance(value, timedelta):
        return min(max(value, -LONGEST), LONGEST)
    if isinstance(value, int) or (isinstance(value, float) and not math.isnan(value)):
        return bounded(value)
    if value is None:
        return value
    try:
        return _moment(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except (AttributeError, ValueError) as error:
        kind = ValueError if isinstance(value, (float, str)) else TypeError
        raise kind(
            f"set_expiry() takes seconds, a datetime, a timedelta or None, got {value!r:.80}."
        ) from error


def bounded(seconds: float) -> float:
    """At most 36,500 days, also before now."""
    return max(-LONGEST_SECONDS, min(seconds, LONGEST_SECONDS))


def cookie_age() -> float:
    return bounded(django_settings.SESSION_COOKIE_AGE)


def _moment(moment: datetime) -> datetime:
    """Within bounds, and with a time zone where USE_TZ is on. Does not convert, which might exceed the bounds."""
    zone = timezone.get_default_timezone()
    aware = moment.replace(tzinfo=moment.tzinfo or zone)
    now = timezone.now() if django_settings.USE_TZ else datetime.now(zone)
    within = now + min(max(aware - now, -LONGEST), LONGEST)
    return within if django_settings.USE_TZ else within.replace(tzinfo=None)
