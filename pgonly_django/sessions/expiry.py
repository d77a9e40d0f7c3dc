"""How long a session lives: what set_expiry() takes, and a reading of it that always gives a time in bounds."""

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
    if value is None or isinstance(value, datetime):
        return value
    if _is_number(value):
        return bounded(value)
    if isinstance(value, str) and _moment(value) is not None:
        return value
    error = ValueError if isinstance(value, (float, str)) else TypeError
    raise error(f"set_expiry() takes seconds, a datetime, a timedelta or None, got {value!r:.80}.")


def bounded(seconds: float) -> float:
    """Within 36,500 days to either side: what dates, cookies and PostgreSQL can all tell."""
    return max(-LONGEST_SECONDS, min(seconds, LONGEST_SECONDS))


def cookie_age() -> float:
    """SESSION_COOKIE_AGE, within bounds."""
    return bounded(django_settings.SESSION_COOKIE_AGE)


def age(expiry: Any, modification: datetime, otherwise: float) -> float:
    """Seconds from `modification` on. `otherwise` for None and 0, and for what cannot be read as an expiry."""
    if not expiry:
        return bounded(otherwise)
    if _is_number(expiry):
        return bounded(expiry)
    if (moment := _moment(expiry)) is None:
        return bounded(otherwise)
    return bounded(math.floor((moment - _aware(modification)).total_seconds()))


def date(expiry: Any, modification: datetime, otherwise: float) -> datetime:
    """When that is; a datetime that set_expiry() was given as it is."""
    if isinstance(expiry, datetime):
        return expiry
    if _moment(expiry) is not None:
        return datetime.fromisoformat(expiry)
    return modification + timedelta(seconds=age(expiry, modification, otherwise))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and not math.isnan(value))


def _moment(expiry: Any) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(expiry) if isinstance(expiry, str) else expiry)
    except (AttributeError, ValueError):
        return None


def _aware(moment: datetime) -> datetime:
    """USE_TZ may have been another when the expiry was set. Without shifting it, which may lead out of bounds."""
    if moment.tzinfo is not None:
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())
