"""Whether jobs run, and begin at once: queues, waits, workers, NOTIFY, and transactions that have been open for so long
that claims read ever more dead rows. Most conditions are those of monitoring/conditions.py, which others report, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from pgonly_django.database.listener import listen_alias, seconds_until_heard
from pgonly_django.models import Job, Worker
from pgonly_django.monitoring import conditions
from pgonly_django.monitoring.doctor.reading import belongs_to, reading, rows
from pgonly_django.monitoring.findings import Condition, Finding, Level, database_flag
from pgonly_django.monitoring.queues import queues
from pgonly_django.monitoring.snapshots import old_snapshots
from pgonly_django.monitoring.waiting import forgotten_waits
from pgonly_django.monitoring.workers import served_queues, workers

SHOWN_AT_MOST = 5


def late(alias: str) -> Iterator[Finding]:
    """D111: no live worker serves a queue. D112: its jobs wait long. D113: it is paused."""
    if belongs_to(alias, Job):
        with reading(alias):
            found, served = queues(alias), served_queues(alias)
        yield from conditions.of_queues(found, served, alias)


def forgotten(alias: str) -> Iterator[Finding]:
    """D114: jobs have waited for an event for long, without a deadline."""
    if belongs_to(alias, Job):
        with reading(alias):
            found = forgotten_waits(alias)
        yield from conditions.of_waits(found, alias)


def silent(alias: str) -> Iterator[Finding]:
    """D121: no worker is live. D122: one is silent."""
    if not belongs_to(alias, Worker):
        return
    with reading(alias):
        found, has_jobs = workers(alias), Job.objects.using(alias).exists()
    if not any(worker.is_live for worker in found):
        # Where there never was a job, the database may be that of a cache alone.
        level = None if has_jobs else Level.INFO
        yield conditions.NO_WORKER.finding(level=level, _database=database_flag(alias))
    yield from conditions.of_workers(found)


def held_snapshots(alias: str) -> Iterator[Finding]:
    """D021: transactions that have been open for long; without their jobs where our tables are locked or missing."""
    limit = conditions.OLD_SNAPSHOT.limit
    try:
        with reading(alias):
            found = old_snapshots(alias, limit, SHOWN_AT_MOST)
    except DatabaseError:
        with reading(alias):
            found = old_snapshots(alias, limit, SHOWN_AT_MOST, names_jobs=False)
    return conditions.of_snapshots(found, alias)


HIDDEN = Condition(
    "D001", Level.INFO, "How long {sessions:n session} of other roles have a transaction open cannot be seen.",
    "GRANT pg_read_all_stats TO {role:sql};")  # fmt: skip
# A view of the server's sessions. Without pg_read_all_stats the times of other roles are NULL.
HIDDEN_SESSIONS = """
SELECT count(*) AS sessions, current_user::text AS role FROM pg_stat_activity
WHERE xact_start IS NULL AND usename <> current_user AND datname = current_database()
HAVING count(*) > 0 AND NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
"""


def hidden_sessions(alias: str) -> Iterator[Finding]:
    """D001: the role cannot see how old transactions of others are, for D021."""
    return (HIDDEN.finding(**facts) for facts in rows(alias, HIDDEN_SESSIONS))


# fmt: off
NOTIFY_SLOW = Condition(
    "D062", Level.WARNING, "A NOTIFY took {seconds:.2f} s to arrive: each new job waits so long before a worker looks.",
    "Look for what keeps the server or the network busy. Commits that send NOTIFY wait for one lock: "
    "SELECT pid, wait_event, query FROM pg_stat_activity WHERE wait_event_type = 'Lock';", limit=0.5)
NO_CONNECTION = Condition(
    "D063", Level.ERROR, "The connection on which workers LISTEN cannot be opened: {_error}",
    "Correct DATABASES[{listened_on!r}]: manage.py dbshell --database {listened_on}")
DIRECT = (
    'Give DATABASES an entry "direct" that leads past the pooler to the same NAME, and set '
    'PGONLY["LISTEN_DATABASE"] = "direct" (docs/how-to/connections.md#listen-past-a-pooler).')
ELSEWHERE = (
    'PGONLY["LISTEN_DATABASE"] is {!r}: it must lead to the same server as {!r}, and to no pooler in transaction mode.')
# fmt: on


def notify(alias: str) -> Iterator[Finding]:
    """D061: it does not arrive. D062: it was late. D063: the connection that listens cannot be opened."""
    limit, refused = conditions.NOTIFY_LOST.limit, ""
    try:
        listening = listen_alias(alias)
        seconds = seconds_until_heard(alias, limit) if belongs_to(alias, Job) else 0.0
    except ImproperlyConfigured:
        return  # the system check pgonly_django.E012 says so
    except psycopg.Error as error:
        seconds, refused = None, " ".join(str(error).split())[:200]
        if isinstance(error, psycopg.OperationalError):
            yield NO_CONNECTION.finding(listened_on=listening, _error=refused)
            return
    if seconds is None:
        why = f"the server refuses it: {refused}" if refused else f"nothing came within {limit:g} s"
        remedy = DIRECT if listening == alias else ELSEWHERE.format(listening, alias)
        yield conditions.NOTIFY_LOST.finding(
            sent_on=alias, listened_on=listening, waited_seconds=limit, _why=why, _remedy=remedy
        )
    elif seconds > NOTIFY_SLOW.limit:
        yield NOTIFY_SLOW.finding(seconds=seconds)
