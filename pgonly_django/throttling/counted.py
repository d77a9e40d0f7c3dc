"""What the throttles of both frameworks share: one statement per request, the behaviour without a database, and a
system check.

A throttle is a sliding window in one row of the cache, which has the time of each request that was admitted. So any
period, wherever it begins, has at most `limit` of them. Above 128 a time stands for a group of requests, the last of
the group, which keeps the row below 1.2 KB; the limit is then kept as exactly, and up to 1 % of it may become free
later than they could.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from dataclasses import dataclass
from typing import Any, Self

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django import events
from pgonly_django.cache import call_log
from pgonly_django.cache.entry import LIVE, SIZE, for_both_tables, minute_of
from pgonly_django.cache.store import Store
from pgonly_django.database.operation import Operation, run
from pgonly_django.database.statement import integer
from pgonly_django.exceptions import CacheError

TIMES_AT_MOST = 128
LONGEST_PERIOD_SECONDS = 366 * 24 * 3600
RETRY_SECONDS = 1.0  # for a request that was refused since the database is unavailable


_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"  # microseconds since 1970
_AHEAD = "(SELECT clock_timestamp() + %(period)s::int8 * interval '1 microsecond') AS ahead (e)"
# `number` counts the admitted requests of the period. `value` has their times, oldest first, in 8 bytes each, which
# compare as the times do. The entry reads as its number.
_COUNTS = f"({LIVE} AND codec = 0 AND octet_length(value) >= 8)"
_IS_OVER = f"substring(value FOR 8) <= int8send({_NOW} - %(period)s::int8)"
_IS_FULL = f"({_COUNTS} AND number >= %(limit)s::int8 AND NOT {_IS_OVER})"
_OF_ENTRY = re.compile(r"\b(?<!\.)(expires_at|codec|value|number)\b")


def _of_entry(condition: str) -> str:
    """Prefixes the columns of the existing row with its name, as an ON CONFLICT needs."""
    return _OF_ENTRY.sub(r"entry.\1", condition)


# A window that is full by the snapshot stays full until its first time is over, so a refusal needs no lock and writes
# nothing. No row comes back where another request took the last place since the snapshot. At most one time is dropped a
# request, since each request adds at most one. clock_timestamp() is read under the lock of the row, so times are in
# order. Served by the primary key.
ADMIT = for_both_tables(
    f"""WITH refused AS MATERIALIZED (
        SELECT substring(value FOR 8) AS oldest, number FROM {{table}} WHERE key = %(key)s::text AND {_IS_FULL}),
    admitted AS (
        INSERT INTO {{table}} AS entry (key, value, number, codec, expires_at, prune_minute)
        SELECT %(key)s::text, int8send({_NOW}), 1, 0, e, {minute_of("e")} FROM {_AHEAD}
        WHERE NOT EXISTS (SELECT FROM refused)
        ON CONFLICT (key) DO UPDATE
        SET (value, number, codec, expires_at, prune_minute, tags, claim, claimed_until) = (
            SELECT CASE WHEN counted < octet_length(times) / 8 * %(group_size)s::int8
                THEN substring(times FOR octet_length(times) - 8) ELSE times END || int8send({_NOW}),
            counted + 1, 0, e, {minute_of("e")}, NULL::text[], NULL::int8, NULL::timestamptz
            FROM {_AHEAD},
            (SELECT coalesce({_of_entry(_COUNTS)}, false), {_of_entry(_IS_OVER)}) AS old (counts, is_over),
            LATERAL (SELECT CASE WHEN NOT counts THEN '' WHEN is_over THEN substring(entry.value FROM 9)
                ELSE entry.value END, CASE WHEN NOT counts THEN 0 WHEN is_over
                THEN greatest(entry.number - %(group_size)s::int8, 0) ELSE entry.number END) AS kept (times, counted))
        WHERE {_of_entry(_IS_FULL)} IS NOT TRUE
        RETURNING number, xmax = 0 AS is_new, {SIZE} AS size)
    SELECT number, is_new, size, NULL::bytea, 0::int8 FROM admitted
    UNION ALL SELECT number, false, 0, oldest, {_NOW} FROM refused""",
    "key limit period group_size",
)


@dataclass(frozen=True, slots=True)
class Admittance:
    """The answer to a request. `wait_seconds` is 0 for an admitted one, otherwise the time until one may be."""

    admitted: bool
    wait_seconds: float
    counted: int  # admitted requests in the period, this one too


def admit(store: Store, key: bytes, limit: int, seconds: float) -> Operation[Admittance]:
    """Admits a request if it is one of at most `limit` in any `seconds`; then it counts. It takes one statement,
    and another where two requests meet at the last place."""
    if not 0 < seconds <= LONGEST_PERIOD_SECONDS:
        raise ValueError(
            f"The period must be between 0 and {LONGEST_PERIOD_SECONDS} seconds, got {seconds!r}."
        )
    if limit <= 0:
        return Admittance(admitted=False, wait_seconds=float(seconds), counted=0)
    period, group_size = round(seconds * 1_000_000), math.ceil(limit / TIMES_AT_MOST)
    while True:
        result = yield from store.send(ADMIT, [key, b"%d" % limit, b"%d" % period, b"%d" % group_size])
        if result.ntuples:
            break
    counted, is_new, size, oldest, now = (result.get_value(0, column) for column in range(5))
    if call_log.is_on(call_log.DEBUG):
        call_log.say(
            "set" if oldest is None else "hit", key, detail=f"{integer(counted)} of {limit} requests"
        )
    if oldest is not None:
        wait = max(integer(oldest) + period - integer(now), 1) / 1_000_000
        return Admittance(admitted=False, wait_seconds=wait, counted=integer(counted))
    new, written = is_new == b"\x01", integer(size)
    if store.counters.wrote(entries=new, size=written if new else 0, written=written):
        yield from store.eviction.clean()
    return Admittance(admitted=True, wait_seconds=0.0, counted=integer(counted))


class CountedThrottle:
    """The base beside the class of a framework, which makes the key and reads the rate. `cache` is that of the
    framework's class: any PostgresCache. `fail_open` decides while the database is unavailable: True lets requests
    through, False refuses them.
    """

    cache: Any
    fail_open = True
    _of_thread: threading.local
    # Of the framework's class.
    rate: str | None
    num_requests: Any
    duration: Any
    get_cache_key: Any
    throttle_failure: Any

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Sets up the throttle here, since ScopedRateThrottle of Django REST framework calls no other __init__()."""
        made = super().__new__(cls)
        made._of_thread = threading.local()
        return made

    @property
    def admission(self) -> Admittance | None:
        """The answer to this thread's last request: Django Ninja has one throttle for all of an operation."""
        return getattr(self._of_thread, "admission", None)

    def allow_request(self, *request: Any, **named: Any) -> bool:
        """Returns whether the request is admitted. Django REST framework passes the view too."""
        if self.rate is None:
            return True
        self.key = key = self.get_cache_key(*request, **named)
        if key is None:
            return True
        return self.count(key, self.num_requests, self.duration) or bool(self.throttle_failure())

    def count(self, key: str, limit: int, seconds: float) -> bool:
        """Returns whether the request is admitted. A changed rate begins to count at 0."""
        store = self.store_or_none()
        if store is None:
            raise ImproperlyConfigured(f"{type(self).__name__} counts in a PostgresCache. {self.remedy()}")
        stored = self.cache.stored_key(f"{key}:{limit}/{seconds:g}", None)
        try:
            admission = run(admit(store, stored, limit, seconds))
        except CacheError as error:
            said = "let through" if self.fail_open else "refused"
            message = (
                f"A request was {said} uncounted, since its throttle did not reach the database: {error}"
            )
            events.emit("throttle.failed", message, level=logging.WARNING)
            admission = Admittance(self.fail_open, 0.0 if self.fail_open else RETRY_SECONDS, 0)
        self._of_thread.admission = admission
        return admission.admitted

    def wait(self) -> float | None:
        """Returns the seconds until another request may be admitted, which the framework sends as Retry-After."""
        return self.admission.wait_seconds if self.admission else None

    @classmethod
    def store_or_none(cls) -> Store | None:
        store = getattr(cls.cache, "store", None)
        return store if isinstance(store, Store) else None

    @classmethod
    def remedy(cls) -> str:
        name = cls.__name__
        return f'Make CACHES["default"] a PostgresCache, or set {name}.cache = caches["the alias of one"].'


def check_throttles(**_: Any) -> list[checks.CheckMessage]:
    """E073: a throttle of DEFAULT_THROTTLE_CLASSES counts in a cache that is not a PostgresCache."""
    if not apps.is_installed("rest_framework"):
        return []
    found: list[checks.CheckMessage] = []
    for named in getattr(settings, "REST_FRAMEWORK", {}).get("DEFAULT_THROTTLE_CLASSES", ()):
        try:
            throttle = import_string(named) if isinstance(named, str) else named
            is_wrong = issubclass(throttle, CountedThrottle) and throttle.store_or_none() is None
        except (ImportError, TypeError, ImproperlyConfigured):
            continue  # the framework says so, or E101 of the cache
        if is_wrong:
            message = f"{throttle.__name__} of DEFAULT_THROTTLE_CLASSES counts in a cache that is not a PostgresCache."
            found.append(checks.Error(message, hint=throttle.remedy(), id="pgonly_django.E073"))
    return found
