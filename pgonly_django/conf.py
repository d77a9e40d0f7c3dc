"""`settings.PGONLY` as one frozen, validated object. A new setting is one field of Settings, with its bounds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

Seconds = float
# No duration is longer: PostgreSQL and Python can add only so much to a date.
LONGEST = timedelta(days=36_500)
LONGEST_SECONDS = LONGEST.total_seconds()
FAILED_RETENTION = timedelta(days=90)
SECRETS = ("METRICS_TOKEN", "TICK_SECRET")
SECRET_LENGTH = 16
RELEASE_LENGTH = 128
# Not "*key*" or "*token*", as of sessions: keys of objects and counts of tokens are what jobs are called with.
MASKED_ARGUMENTS = (
    "*passw*", "*passphrase*", "*pwd", "*secret*", "*credential*", "*authorization*", "*bearer*", "*cookie*", "*jwt*",
    "*token", "*api_key*", "*access_key*", "*private_key*", "*signing_key*", "*encryption_key*", "*session_key*",
)  # fmt: skip


def _setting(
    default: Any,
    *,
    at_least: float | None = None,
    at_most: float = LONGEST_SECONDS,
    must_be: Callable[[Any], str | None] | None = None,
) -> Any:
    """Declares a setting. `default` is never changed, so it may be a dict. `must_be` says what a value must be, or
    returns None when it is right."""
    metadata = {"default": default, "at_least": at_least, "at_most": at_most, "must_be": must_be}
    return field(default_factory=lambda: default, metadata=metadata)


def _what_is_wrong_with_urls(urls: Any) -> str | None:
    if not isinstance(urls, list | tuple):
        return "a list of URLs"
    if all(map(_is_wake_url, urls)):
        return None
    return (
        'a list of URLs such as "https://worker.example.com/wake", with a path, in ASCII, without a password'
    )


def _what_is_wrong_with_patterns(patterns: Any) -> str | None:
    """A string alone would be read as one pattern for each of its letters."""
    if isinstance(patterns, list | tuple) and all(isinstance(each, str) for each in patterns):
        return None
    return 'a list of shell patterns such as "*token*"'


def _what_is_wrong_with_release(name: Any) -> str | None:
    if isinstance(name, str) and len(name) <= RELEASE_LENGTH and name.isprintable():
        return None
    return f"text of at most {RELEASE_LENGTH} characters"


def _is_wake_url(url: Any) -> bool:
    """Returns whether it has a path: that of the health server, without which no worker wakes up."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname and parts.port != 0 and parts.path.strip("/"))
    except ValueError:  # a port that is none
        return False
    return is_complete and parts.scheme in ("http", "https") and "@" not in parts.netloc and "#" not in url


# Nothing that would have to be escaped in SQL.
_SCHEMA_NAME = re.compile(r"[^\W\d][\w-]*")
SCHEMA_BYTES = 63  # PostgreSQL cuts longer names


def _what_is_wrong_with_schema(name: Any) -> str | None:
    if name == "":
        return None
    if not isinstance(name, str):
        return "text"
    if not _SCHEMA_NAME.fullmatch(name):
        return "the name of a PostgreSQL schema (letters, digits, _ and -, a letter or _ first)"
    if len(name.encode()) > SCHEMA_BYTES:
        return f"at most {SCHEMA_BYTES} bytes long"
    if name.lower().startswith("pg_") or name.lower() == "information_schema":
        return "a schema of yours; PostgreSQL keeps pg_... and information_schema for itself"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    # The number of seconds for which a running job belongs to its worker after the last heartbeat.
    lease_seconds: Seconds = _setting(60, at_least=2)
    # The alias of DATABASES whose connections LISTEN, past a pooler that the others go through; "": the same.
    listen_database: str = _setting("")
    # The PostgreSQL schema of all tables, read once at the start; "": where the search_path leads.
    schema: str = _setting("", must_be=_what_is_wrong_with_schema)
    # Each of these four has a module that validates its entries.

    # Schedules by their names; None switches off the one of a decorator.
    schedules: dict[str, Any] = _setting({})
    # Limits of queues, and the tasks of dead letter queues, by the names of the queues.
    queues: dict[str, Any] = _setting({})
    # Limiters by their names: the maximum number of calls at a time, requests and tokens per minute.
    limiters: dict[str, Any] = _setting({})
    # Caps of budgets by their names, or by shell patterns of names.
    budgets: dict[str, Any] = _setting({})
    # The number of seconds that a tick (the URL of `manage.py pgonly_tick_url`) works; fewer than the server allows.
    tick_seconds: Seconds = _setting(25, at_least=1)
    # The release of your project, such as a commit, which the pages of its workers show; "": none.
    release: str = _setting("", must_be=_what_is_wrong_with_release)
    # The token that a tick may send as "Authorization: Bearer <token>" instead of the signed URL; "": none.
    tick_secret: str = _setting("")
    # The token for the metrics, sent as "Authorization: Bearer <token>"; "": only staff that may view jobs reads them.
    metrics_token: str = _setting("")
    # True: the log has a line for each job that succeeds, even when one line per second would tell of many.
    log_each_job: bool = _setting(default=False)
    # The dotted path of a function (task_result, error) that workers call for each job that has failed; "": none.
    on_failure: str = _setting("")
    # The maximum number of connections of a process to the limiters and budgets; callers that wait hold none.
    limits_pool_size: int = _setting(4, at_least=1)
    # The maximum number of characters that a job may emit; the rest is dropped, and its log says so.
    output_limit: int = _setting(1_000_000, at_least=1000, at_most=50_000_000)
    # The URLs to which a POST after the commit of an enqueue() goes, to wake workers that sleep.
    wake_urls: Sequence[str] = _setting((), must_be=_what_is_wrong_with_urls)
    # A session's last_seen_at and sliding expiry are written at most once in this number of seconds.
    session_touch_seconds: Seconds = _setting(60, at_least=0)
    # False: PostgreSQL acknowledges a change before it is on disk, unless it begins a session or changes its user.
    session_wait_for_disk: bool = _setting(default=True)
    # The number of your proxies that append to X-Forwarded-For; 0: the header is ignored.
    session_trusted_proxies: int = _setting(0, at_least=0)
    # True: the values inside sessions are encrypted with a key derived from SECRET_KEY.
    session_encrypt_data: bool = _setting(default=False)
    # The session engine to move from. It is asked when a session is not found here; "": none.
    session_previous_engine: str = _setting("")
    # The admin hides the values in sessions whose keys match one of these shell patterns.
    session_masked_keys: Sequence[str] = _setting(
        ("*hash*", "*key*", "*passw*", "*secret*", "*token*", "*credential*"),
        must_be=_what_is_wrong_with_patterns,
    )
    # The admin hides the values in arguments, results and checkpoints of jobs whose names match one of these patterns.
    masked_arguments: Sequence[str] = _setting(MASKED_ARGUMENTS, must_be=_what_is_wrong_with_patterns)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Returns the validated settings. Raises ImproperlyConfigured with the wrong key or value and the remedy."""
    return read_settings()


def read_settings() -> Settings:
    """Does the same while Django starts, when the settings may still change."""
    raw: Any = getattr(django_settings, "PGONLY", {})
    if not isinstance(raw, dict):
        raise ImproperlyConfigured(f'PGONLY must be a dict, such as {{"LEASE_SECONDS": 60}}, got {raw!r}.')
    known = {f.name.upper(): f for f in fields(Settings)}
    values = {}
    for key, value in raw.items():
        if key not in known:
            raise ImproperlyConfigured(unknown_key('PGONLY["%s"]', key, known))
        if reason := _what_is_wrong(known[key], value):
            is_shown = key not in SECRETS or value is None  # a secret may be a real one
            got = repr(value) if is_shown else type(value).__name__
            raise ImproperlyConfigured(f'PGONLY["{key}"] must be {reason}, got {got}.')
        if key in SECRETS and 0 < len(value) < SECRET_LENGTH:
            raise ImproperlyConfigured(
                f'PGONLY["{key}"] must have at least {SECRET_LENGTH} characters, got {len(value)}.'
            )
        values[known[key].name] = value
    if (name := values.setdefault("schema", schema())) != schema():
        raise ImproperlyConfigured(
            f'PGONLY["SCHEMA"] cannot change while Django runs: it was {schema()!r} at the start and is {name!r} now. '
            "Set it in the settings file; override_settings(PGONLY=...) may leave it out."
        )
    return Settings(**values)


@cache
def schema() -> str:
    """Returns PGONLY["SCHEMA"] as it was when it was first read, since models and statements are made with it; "" for
    none. Raises ImproperlyConfigured for anything that cannot be the name of a schema."""
    raw: Any = getattr(django_settings, "PGONLY", {})
    name = raw.get("SCHEMA", "") if isinstance(raw, dict) else ""
    if reason := _what_is_wrong_with_schema(name):
        raise ImproperlyConfigured(f'PGONLY["SCHEMA"] must be {reason}, got {name!r}.')
    return str(name)


def check_settings(**_: object) -> list[checks.CheckMessage]:
    """The system check E001: settings.PGONLY does not validate."""
    try:
        settings()
    except ImproperlyConfigured as error:
        return [
            checks.Error(str(error), hint="See docs/reference/settings.md#checks.", id="pgonly_django.E001")
        ]
    return []


def _what_is_wrong(spec: Any, value: Any) -> str | None:
    """Returns what the value of this field must be, or None when it is right."""
    if spec.metadata["must_be"] is not None:
        reason: str | None = spec.metadata["must_be"](value)
        return reason
    kind = type(spec.metadata["default"])
    if kind not in (int, float):
        return None if isinstance(value, kind) else f"a {kind.__name__}"
    is_whole = spec.type == "int"
    number = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, number) or value != value:  # noqa: PLR0124 - NaN alone is not
        return "a whole number" if is_whole else "a number"
    least = spec.metadata["at_least"]
    if value < least:
        return f"at least {least:g}"
    most = spec.metadata["at_most"]
    return f"at most {format(most, 'g' if isinstance(most, float) else ',')}" if value > most else None


def unknown_key(shape: str, key: Any, known: Any) -> str:
    """Returns the message for an option that does not exist. It names the nearest known one."""
    key = str(key)
    same = [name for name in known if name.lower() == key.lower()]
    near = same or difflib.get_close_matches(key, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(sorted(known))}."
    before, _, after = shape.rpartition("%s")  # names before it may have a % too
    return f"{before}{key}{after} is not a setting. {hint}"


def nearest_zone(name: str) -> str:
    """Returns the remedy for a time zone that does not exist: the nearest one. "Shanghai" is "Asia/Shanghai"."""
    known = sorted(available_timezones())
    if not known:
        return "This system has no time zones at all: pip install tzdata."
    cities = {zone.rpartition("/")[2].lower(): zone for zone in known}
    ending_alike = difflib.get_close_matches(name.rpartition("/")[2].lower(), cities, n=1)
    near = [zone for zone in known if zone.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, known, n=1) or [cities[city] for city in ending_alike]
    return f"Did you mean {near[0]!r}?" if near else 'It must be a name such as "Europe/Berlin".'


@receiver(setting_changed)
def _reset(*, setting: str, **_: Any) -> None:
    if setting == "PGONLY":
        settings.cache_clear()
