"""Whether the cache should move to Redis: what the site needs now, against the thresholds of the design.

docs/explanation/how_far_it_goes.md has the argument, docs/how-to/move_the_cache_to_redis.md the move.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import quantiles
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.db import OperationalError, connections, router
from django.db.models import Model
from django.utils.module_loading import import_string

from pgonly_django.cache.backend import PostgresCache, our_caches
from pgonly_django.cache.updates import pttl
from pgonly_django.database.on_django import timed_out
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CostEntry, Session
from pgonly_django.monitoring.doctor.reading import value
from pgonly_django.monitoring.findings import Condition, Finding, Level
from pgonly_django.tables import qualified

USERS_A_DAY, TRANSACTIONS_A_SECOND, P99_MILLISECONDS, MODEL_USD = 50_000, 1_000, 50.0, 700
# The server is watched for so long; a cache is asked so often.
WATCH_SECONDS, CALLS, CALLS_SECONDS = 0.5, 200, 1.0

# No index: reads the sessions once, within the time of reading().
USERS = qualified(f"""
SELECT count(*) FROM (
    SELECT DISTINCT user_id FROM pgonly_session
    WHERE user_id IS NOT NULL AND last_seen_at > statement_timestamp() - interval '1 day' LIMIT {2 * USERS_A_DAY}
) AS seen
""")
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
# Else a transaction of the caller's sees the same statistics until its end.
NEW_SNAPSHOT = "SELECT pg_stat_clear_snapshot()"
COSTS = qualified("SELECT coalesce(sum(usd), 0) FROM pgonly_cost WHERE at > now() - interval '30 days'")

STAYS = Condition(
    "D140",
    Level.INFO,
    "The cache can stay in PostgreSQL: {_figures}.",
    "Nothing to do. At your busiest hour the figures mean more.",
)
MOVES = Condition(
    "D141",
    Level.WARNING,
    "The cache may need Redis: {_figures}.",
    "Measure again at your busiest hour. If it stays so, move CACHES[{_alias!r}] to Redis: two entries in CACHES, and "
    "one release that writes both. The queue and the sessions stay. See docs/how-to/move_the_cache_to_redis.md.",
)


class Measured(NamedTuple):
    """`value` None: it cannot be known here."""

    name: str
    value: float | None
    limit: float
    text: str


def growth(alias: str) -> Iterator[Finding]:
    """Nothing where no cache of this site is ours."""
    if not (ours := our_caches()):
        return
    caches = map(p99, ours, ours.values())
    measured = [users_a_day(alias), transactions_a_second(alias), *caches, model_costs(alias)]
    over = [each for each in measured if each.value is not None and each.value > each.limit]
    figures: dict[str, Any] = {each.name: each.value for each in measured}
    yield (MOVES if over else STAYS).finding(
        **figures,
        _figures="; ".join(each.text for each in over or measured),
        _alias=next(iter(ours)),
    )


def users_a_day(alias: str) -> Measured:
    """Of the site, in whichever database its sessions are."""
    if not _sessions_are_ours():
        text = "users a day unknown, since SESSION_ENGINE is not pgonly_django.sessions"
        return Measured("users_a_day", None, USERS_A_DAY, text)
    users = _in_time(Session, alias, USERS)
    text = "users a day not counted in time"
    if users is not None:
        text = f"{users:,} users in the last 24 hours (limit {USERS_A_DAY:,})"
    return Measured("users_a_day", users, USERS_A_DAY, text)


def _sessions_are_ours() -> bool:
    try:
        store = import_string(f"{django_settings.SESSION_ENGINE}.SessionStore")
    except ImportError:
        return False
    return any(base.__module__.startswith("pgonly_django.sessions") for base in store.__mro__)


def _in_time(model: type[Model], alias: str, sql: str) -> Any:
    """The value, from where routers keep the rows, unless that is no PostgreSQL. None: reading it took too long."""
    kept = router.db_for_read(model)
    try:
        return value(kept if connections[kept].vendor == "postgresql" else alias, sql)
    except OperationalError as error:
        if timed_out(error):
            return None
        raise


def transactions_a_second(alias: str) -> Measured:
    """Of all clients of this database, during WATCH_SECONDS."""
    first, began = _transactions(alias), time.monotonic()
    time.sleep(WATCH_SECONDS)
    own = 2  # these looks are transactions too
    rate = max(0, _transactions(alias) - first - own) / (time.monotonic() - began)
    text = f"{rate:,.0f} transactions a second (limit {TRANSACTIONS_A_SECOND:,})"
    return Measured("transactions_a_second", round(rate, 1), TRANSACTIONS_A_SECOND, text)


def _transactions(alias: str) -> int:
    value(alias, NEW_SNAPSHOT)
    return int(value(alias, TRANSACTIONS))


def p99(alias: str, cache: PostgresCache) -> Measured:
    """Of reads by key, which change no statistics, and raise where get() would answer with a miss."""
    name, key = f"cache_p99_ms.{alias}", cache.stored_key("pgonly_doctor", None)
    times: list[float] = []
    until = time.perf_counter() + CALLS_SECONDS
    try:
        while len(times) < CALLS and (began := time.perf_counter()) < until:
            run(pttl(cache.store, key))
            times.append((time.perf_counter() - began) * 1000)
    except CacheError:
        times = []
    if len(times) < 2:  # noqa: PLR2004 - fewer have no percentile
        return Measured(name, None, P99_MILLISECONDS, f"cache {alias!r} does not answer")
    milliseconds = quantiles(times, n=100, method="inclusive")[98]
    text = f"p99 of cache {alias!r} {milliseconds:.2f} ms (limit {P99_MILLISECONDS:g} ms)"
    return Measured(name, round(milliseconds, 3), P99_MILLISECONDS, text)


def model_costs(alias: str) -> Measured:
    """Of all calls whose cost was recorded, in 30 days."""
    dollars = _in_time(CostEntry, alias, COSTS)
    if dollars is None:
        return Measured("model_usd_30_days", None, MODEL_USD, "costs of models not added up in time")
    text = f"calls to models ${dollars:,.2f} in 30 days (limit ${MODEL_USD})"
    return Measured("model_usd_30_days", float(dollars), MODEL_USD, text)
