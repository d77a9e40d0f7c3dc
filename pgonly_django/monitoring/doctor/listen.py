"""Whether a NOTIFY arrives where the workers listen."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.database import testrun
from pgonly_django.database.listener import listen_alias
from pgonly_django.models import Job
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.monitoring.doctor.reading import row
from pgonly_django.monitoring.listening import seconds_until_heard

WAIT_SECONDS = 2.0  # as a worker's own test does
SLOW_SECONDS = 0.5
QUEUE_USAGE = 0.5
DIRECT = (
    'Give DATABASES an entry "direct" that leads past the pooler to the same NAME, and set '
    'PGONLY["LISTEN_DATABASE"] = "direct" (docs/how-to/queue.md#poolers).'
)


def examine_notify(alias: str) -> Iterator[Finding]:
    """D061: it does not arrive. D062: it was late. D063: the connection that listens cannot be opened."""
    if not belongs_to(alias, Job) or row(alias, "SELECT pg_is_in_recovery()")[0]:
        return  # D091 says that it is a standby
    try:
        listening = listen_alias(alias)
        seconds = seconds_until_heard(alias, WAIT_SECONDS)
    except testrun.Refusal:
        yield _NOT_TESTED
    except ImproperlyConfigured:
        return  # the system check pgonly_django.E012 says so
    except psycopg.OperationalError as error:
        yield _no_connection(listening, error)
    except psycopg.Error as error:
        yield _not_heard(alias, listening, f"the server refuses it: {' '.join(str(error).split())[:200]}")
    else:
        yield from _judged(alias, listening, seconds)


def _judged(alias: str, listening: str, seconds: float | None) -> Iterator[Finding]:
    if seconds is None:
        yield _not_heard(alias, listening, f"nothing came within {WAIT_SECONDS:g} s")
    elif seconds > SLOW_SECONDS:
        yield Finding(
            id="D062",
            level=Level.WARNING,
            fact=f"A NOTIFY took {seconds:.2f} s to arrive: each new job waits so long before a worker looks.",
            advice="Look for what keeps the server or the network busy. Commits that send NOTIFY wait for one lock: "
            "SELECT pid, wait_event, query FROM pg_stat_activity WHERE wait_event_type = 'Lock';",
            data={"seconds": seconds},
        )


def _not_heard(alias: str, listening: str, why: str) -> Finding:
    is_direct = listening != alias
    remedy = (
        f'PGONLY["LISTEN_DATABASE"] is {listening!r}: it must lead to the same server as {alias!r}, and to no pooler '
        "in transaction mode."
    )
    return Finding(
        id="D061",
        level=Level.WARNING,
        fact=f"A NOTIFY that was sent on {alias!r} was not heard on {listening!r}: {why}. Workers look for jobs every "
        "2 s instead, and a cancel waits as long.",
        advice=remedy if is_direct else DIRECT,
        data={"sent_on": alias, "listened_on": listening, "waited_seconds": WAIT_SECONDS},
    )


def _no_connection(listening: str, error: Exception) -> Finding:
    return Finding(
        id="D063",
        level=Level.ERROR,
        fact=f"The connection on which workers LISTEN cannot be opened: {' '.join(str(error).split())[:200]}",
        advice=f"Correct DATABASES[{listening!r}]: manage.py dbshell --database {listening}",
        data={"listened_on": listening},
    )


_NOT_TESTED = Finding(
    id="D065",
    level=Level.INFO,
    fact="Whether a NOTIFY arrives was not tested: a test may not open another connection.",
    advice="Run it outside: manage.py pgonly_doctor",
)


def examine_notify_queue(alias: str) -> Iterator[Finding]:
    """D064: the server's queue of notifications fills up."""
    (usage,) = row(alias, "SELECT pg_notification_queue_usage()")
    if usage >= QUEUE_USAGE:
        yield Finding(
            id="D064",
            level=Level.ERROR,
            fact=f"The server's queue of notifications is {usage:.0%} full; at 100 % every commit with a NOTIFY fails. "
            "A session that listens has had a transaction open for long.",
            advice="Find it, and end it: SELECT pid, application_name, xact_start FROM pg_stat_activity WHERE "
            "xact_start IS NOT NULL ORDER BY xact_start; SELECT pg_terminate_backend(PID);",
            data={"usage": usage},
        )
