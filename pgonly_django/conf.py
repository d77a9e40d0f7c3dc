"""`settings.PGONLY` as one frozen, validated object.

A new setting is one field below: its default, its type (checked), its bounds (`at_least`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

Seconds = float
# No duration of a job is longer: what PostgreSQL and Python can add to a date has an end.
LONGEST = timedelta(days=36_500)
LONGEST_SECONDS = LONGEST.total_seconds()


def _setting(default: Any, *, at_least: float | None = None) -> Any:
    return field(default=default, metadata={"at_least": at_least})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    # A running job belongs to its worker this long after the last heartbeat.
    lease_seconds: Seconds = _setting(60, at_least=2)
    # A session's last_seen_at and sliding expiry are written at most this often.
    session_touch_seconds: Seconds = _setting(60, at_least=0)
    # False: changes that neither begin a session nor change its user are acknowledged before they are on disk.
    session_wait_for_disk: bool = _setting(default=True)
    # How many proxies of yours stand before Django and append to X-Forwarded-For; 0: the header is ignored.
    session_trusted_proxies: int = _setting(0, at_least=0)
    # Values inside sessions are encrypted under a key derived from SECRET_KEY.
    session_encrypt_data: bool = _setting(default=False)
    # The session engine to move from: asked when a session is not found here. "": none.
    session_fallback_engine: str = _setting("")
    # Values under keys that match one of these shell patterns are not shown in the admin.
    session_masked_keys: tuple[str, ...] = _setting(
        ("*hash*", "*key*", "*passw*", "*secret*", "*token*", "*credential*")
    )


def settings() -> Settings:
    """The validated settings. Raises ImproperlyConfigured naming the wrong key, value and remedy."""
    return _load()


@lru_cache(maxsize=1)
def _load() -> Settings:
    raw: Any = getattr(django_settings, "PGONLY", {})
    if not isinstance(raw, dict):
        raise ImproperlyConfigured(f'PGONLY must be a dict, such as {{"LEASE_SECONDS": 60}}, got {raw!r}.')
    known = {f.name.upper(): f for f in fields(Settings)}
    values = {}
    for key, value in raw.items():
        if key not in known:
            raise ImproperlyConfigured(unknown_key('PGONLY["%s"]', key, known))
        reason = _what_is_wrong(known[key], value)
        if reason:
            raise ImproperlyConfigured(f'PGONLY["{key}"] must be {reason}, got {value!r}.')
        values[known[key].name] = value
    return Settings(**values)


def _what_is_wrong(spec: Any, value: Any) -> str | None:
    """What the value of this field must be, where it is not."""
    kind = type(spec.default)
    if kind not in (int, float):
        return None if isinstance(value, kind) else f"a {kind.__name__}"
    is_whole = spec.type == "int"
    number = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, number) or value != value:  # noqa: PLR0124 - NaN alone is not
        return "a whole number" if is_whole else "a number"
    least = spec.metadata["at_least"]
    if value < least:
        return f"at least {least:g}"
    return f"at most {LONGEST_SECONDS:g}" if value > LONGEST_SECONDS else None


def unknown_key(shape: str, key: Any, known: Any) -> str:
    """The message for an option that does not exist, naming the nearest known one."""
    key = str(key)
    same = [name for name in known if name.lower() == key.lower()]
    near = same or difflib.get_close_matches(key, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(sorted(known))}."
    return f"{shape % key} is not a setting. {hint}"


@receiver(setting_changed)
def _reset(*, setting: str, **_: Any) -> None:
    if setting == "PGONLY":
        _load.cache_clear()
