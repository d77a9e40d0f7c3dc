"""Who holds vacuum back: dead rows that an old transaction may still see cannot be removed, and claims walk over
them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.db import DatabaseError

from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import OUR_TABLES, parameters
from pgonly_django.monitoring.doctor.reading import reading, role_of, row, rows
from pgonly_django.monitoring.doctor.words import counted, database_flag, literal, size
from pgonly_django.monitoring.snapshots import OLD, Snapshot, old_snapshots
from pgonly_django.wording import duration

LONG = timedelta(hours=1)  # from here on it is an error
SHOWN_AT_MOST = 5
# Of WAL that an unused slot keeps. Disks of small servers have 20 GB.
SLOT_ERROR_BYTES = 10 * 1024**3
# A standby that reads for an hour at 100 writes a second holds back so many transactions.
FEEDBACK_TRANSACTIONS = 100_000


def _level(seconds: float) -> Level:
    return Level.ERROR if seconds >= LONG.total_seconds() else Level.WARNING


def examine_sessions(alias: str) -> Iterator[Finding]:
    """D021: transactions that have been open for OLD."""
    for each in _old_snapshots(alias):
        yield Finding(
            id="D021",
            level=_level(each.seconds),
            fact=f"A transaction has been open for {duration(each.seconds)} and keeps vacuum from removing dead rows: "
            f"{_who(each)}.",
            advice=_how_to_end(alias, each),
            data={
                "pid": each.pid,
                "seconds": each.seconds,
                "application_name": each.application_name,
                "state": "idle in transaction" if each.is_idle else "active",
                "worker": each.worker,
                "jobs": [{"id": str(job.pk), "task": job.task} for job in each.jobs],
            },
        )


def _old_snapshots(alias: str) -> list[Snapshot]:
    """Without their jobs where our tables are locked or missing: then it counts all the more who it is."""
    try:
        with reading(alias):
            return old_snapshots(alias, OLD, SHOWN_AT_MOST)
    except DatabaseError:
        with reading(alias):
            return old_snapshots(alias, OLD, SHOWN_AT_MOST, names_jobs=False)


def _who(snapshot: Snapshot) -> str:
    state = ", which waits for its client" if snapshot.is_idle else ""
    session = (
        f"process {snapshot.pid} of the server ({snapshot.application_name or 'no application_name'}{state})"
    )
    if not snapshot.jobs:
        return session
    tasks = " or ".join(f"{job.task} (job {job.pk})" for job in snapshot.jobs)
    return f"{tasks} of the worker {snapshot.worker}, {session}"


def _how_to_end(alias: str, snapshot: Snapshot) -> str:
    terminate = f"SELECT pg_terminate_backend({snapshot.pid});"
    if len(snapshot.jobs) != 1:
        return f"If it was forgotten, end it: {terminate}"
    job = snapshot.jobs[0]
    cancel = f"manage.py pgonly_jobs cancel {job.pk}{database_flag(alias)}"
    return f"Let the task commit more often. To stop it now: {cancel}, and if it does not end: {terminate}"


# Such a lock waits for all transactions that have used the table, and all others wait behind it.
LOCKS = f"""
WITH {OUR_TABLES}
SELECT l.pid, t.name, l.granted, date_part('epoch', clock_timestamp() - coalesce(l.waitstart, a.xact_start)) AS seconds,
    pg_blocking_pids(l.pid), a.application_name, left(coalesce(a.query, ''), 120)
FROM our_tables AS t JOIN pg_locks AS l ON l.relation = t.oid AND l.mode = 'AccessExclusiveLock'
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND coalesce(l.waitstart, a.xact_start) < clock_timestamp() - %(longer)s::interval
ORDER BY seconds DESC LIMIT %(limit)s
"""
LOCKED_FOR = timedelta(seconds=2)


def examine_locks(alias: str) -> Iterator[Finding]:
    """D025: somebody has locked a table of ours, or waits for that with all others behind him."""
    limits = parameters(longer=str(LOCKED_FOR), limit=SHOWN_AT_MOST)
    for pid, table, is_granted, seconds, blockers, name, query in rows(alias, LOCKS, limits):
        others = ", ".join(map(str, blockers))
        waits = f"waits for an exclusive lock of {table}, behind {others}, with all others waiting behind it"
        yield Finding(
            id="D025",
            level=Level.ERROR,
            fact=f"Process {pid} of the server ({name or 'no application_name'}) "
            f"{f'has locked {table}' if is_granted else waits}, for {duration(seconds)} now: {' '.join(query.split())}",
            advice=f"End it: SELECT pg_terminate_backend({pid}); Later, try it again with SET lock_timeout = '2s'."
            if is_granted
            else f"End it, SELECT pg_terminate_backend({pid}); or what it waits for: "
            + " ".join(f"SELECT pg_terminate_backend({each});" for each in blockers),
            data={
                "pid": pid,
                "table": table,
                "seconds": seconds,
                "has_it": is_granted,
                "blocked_by": blockers,
            },
        )


# Index: none; a view of the server's sessions. Without pg_read_all_stats the times of other roles are NULL.
HIDDEN = """
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), count(*) FILTER (WHERE xact_start IS NULL
    AND usename <> current_user AND datname = current_database())
FROM pg_stat_activity
"""


def examine_hidden_sessions(alias: str) -> Iterator[Finding]:
    """D001: sessions of other roles, whose transactions this role cannot see."""
    sees_all, hidden = row(alias, HIDDEN)
    if hidden and not sees_all:
        yield Finding(
            id="D001",
            level=Level.INFO,
            fact=f"How long {counted(hidden, 'session')} of other roles have a transaction open cannot be seen.",
            advice=f"GRANT pg_read_all_stats TO {role_of(alias)};",
            data={"sessions": hidden},
        )


PREPARED = """
SELECT gid, owner, date_part('epoch', clock_timestamp()) - date_part('epoch', prepared), age(transaction)
FROM pg_prepared_xacts WHERE database = current_database() AND prepared < clock_timestamp() - %(older)s::interval
ORDER BY prepared LIMIT %(limit)s
"""


def examine_prepared_transactions(alias: str) -> Iterator[Finding]:
    """D022: they outlive their session and every restart."""
    for gid, owner, seconds, age in rows(alias, PREPARED, {"older": str(OLD), "limit": SHOWN_AT_MOST}):
        yield Finding(
            id="D022",
            level=_level(seconds),
            fact=f"The prepared transaction {gid!r} of {owner} has waited for its end for {duration(seconds)}. It "
            "keeps its locks, and vacuum from removing dead rows, over every restart.",
            advice=f"Ask its transaction manager, or end it: ROLLBACK PREPARED {literal(gid)};",
            data={"gid": gid, "owner": owner, "seconds": seconds, "transactions": age},
        )


# NULL for the bytes where the slot has reserved no WAL.
SLOTS = """
SELECT slot_name, slot_type, age(xmin), age(catalog_xmin), pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::int8
FROM pg_replication_slots WHERE NOT active AND (restart_lsn IS NOT NULL OR xmin IS NOT NULL OR catalog_xmin IS NOT NULL)
ORDER BY 5 DESC NULLS LAST LIMIT %(limit)s
"""


def examine_slots(alias: str) -> Iterator[Finding]:
    """D023: replication slots that nothing reads from."""
    for name, kind, xmin, catalog_xmin, kept in rows(alias, SLOTS, {"limit": SHOWN_AT_MOST}):
        held = f"keeps {size(kept or 0)} of WAL on the disk of the server"
        if xmin is not None or catalog_xmin is not None:
            held += f" and dead rows of the last {counted(max(xmin or 0, catalog_xmin or 0), 'transaction')}"
        yield Finding(
            id="D023",
            level=Level.ERROR if (kept or 0) >= SLOT_ERROR_BYTES else Level.WARNING,
            fact=f"Nothing reads from the {kind} replication slot {name!r}, which {held}.",
            advice="Start its standby or subscriber again, or drop it: "
            f"SELECT pg_drop_replication_slot({literal(name)});",
            data={
                "slot": name,
                "type": kind,
                "bytes": kept,
                "transactions": max(xmin or 0, catalog_xmin or 0),
            },
        )


FEEDBACK = """
SELECT pid, application_name, age(backend_xmin) FROM pg_stat_replication
WHERE age(backend_xmin) >= %(transactions)s ORDER BY 3 DESC LIMIT %(limit)s
"""


def examine_standbys(alias: str) -> Iterator[Finding]:
    """D024: queries on a standby with hot_standby_feedback."""
    limits = {"transactions": FEEDBACK_TRANSACTIONS, "limit": SHOWN_AT_MOST}
    for pid, name, age in rows(alias, FEEDBACK, limits):
        yield Finding(
            id="D024",
            level=Level.WARNING,
            fact=f"A query on the standby {name or pid} keeps vacuum here from removing the dead rows of the last "
            f"{counted(age, 'transaction')} (hot_standby_feedback).",
            advice="End that query on the standby: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY "
            "xact_start; or take its feedback away there: ALTER SYSTEM SET hot_standby_feedback = off; "
            "SELECT pg_reload_conf();",
            data={"standby": name, "pid": pid, "transactions": age},
        )
