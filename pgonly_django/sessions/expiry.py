"""The lifetime of a session: what set_expiry() accepts, and how a stored expiry is read, always within bounds."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.utils import timezone

from pgonly_django.conf import LONGEST

LONGEST_SECONDS = int(LONGEST / timedelta(seconds=1))


def checked(value: Any) -> Any:
    """Returns `value` as SessionBase.set_expiry() can keep it. Raises TypeError or ValueError for others."""
    if isinstance(value, timedelta):
        return min(max(value, -LONGEST), LONGEST)
    if value is None or isinstance(value, datetime):
        return value
    if _is_number(value):
        return bounded(value)
    if isinstance(value, str) and _moment(value) is not None:
        return value
    error = ValueError if isinstance(value, (float, str)) else TypeError
    raise error(f"set_expiry() takes seconds, a datetime, a timedelta or None, got {value!r:.80}.")


def bounded(seconds: float) -> float:
    """Returns at most 36,500 days, also before now: dates, cookies and PostgreSQL can all hold that."""
    return max(-LONGEST_SECONDS, min(seconds, LONGEST_SECONDS))


def cookie_age() -> float:
    return bounded(django_settings.SESSION_COOKIE_AGE)


def age(expiry: Any, modification: datetime, default: float) -> float:
    """Returns the seconds after `modification`; `default` for None, 0 and what is not an expiry."""
    if expiry and _is_number(expiry):
        return bounded(expiry)
    if not expiry or (moment := _moment(expiry)) is None:
        return bounded(default)
    return bounded(math.floor((moment - _aware(modification)).total_seconds()))


def date(expiry: Any, modification: datetime, default: float) -> datetime:
    """Returns the end of the age. A datetime that set_expiry() was given is returned unchanged."""
    if isinstance(expiry, datetime):
        return expiry
    if _moment(expiry) is not None:
        return datetime.fromisoformat(expiry)
    return modification + timedelta(seconds=age(expiry, modification, default))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and not math.isnan(value))


def _moment(expiry: Any) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(expiry) if isinstance(expiry, str) else expiry)
    except (AttributeError, ValueError):
        return None


def _aware(moment: datetime) -> datetime:
    """Makes the time aware: USE_TZ may have changed since. It does not convert, which might exceed the bounds."""
    if moment.tzinfo is not None:
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())
