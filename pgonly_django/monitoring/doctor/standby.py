"""Standbys and read replicas: the queue needs the primary, and UNLOGGED tables are there alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from django.apps import apps
from django.db import connections, router

from pgonly_django.cache.backend import our_caches
from pgonly_django.database.placement import APP
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import OUR_TABLES, belongs_to, parameters
from pgonly_django.monitoring.doctor.reading import row, rows
from pgonly_django.monitoring.doctor.words import counted, named
from pgonly_django.tables import name_of

IN_RECOVERY = "SELECT pg_is_in_recovery()"
UNLOGGED = f"WITH {OUR_TABLES} SELECT name FROM our_tables WHERE persistence = 'u' ORDER BY name"
ATTACHED = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
REPLICA = "cannot access temporary or unlogged relations during recovery"


def _is_standby(alias: str) -> bool:
    return bool(row(alias, IN_RECOVERY)[0])


def _unlogged(alias: str) -> list[str]:
    return [name for (name,) in rows(alias, UNLOGGED, parameters())]


def examine_this_server(alias: str) -> Iterator[Finding]:
    """D091: this alias leads to a standby."""
    if not _is_standby(alias):
        return
    caches = sorted(name for name, cache in our_caches().items() if cache.store.pool.alias == alias)
    unread = _unlogged(alias)
    also = f" The caches {named(caches)} are here: {REPLICA} ({named(unread)})." if caches and unread else ""
    yield Finding(
        id="D091",
        level=Level.ERROR,
        fact=f"DATABASES[{alias!r}] leads to a standby, which takes no writes and no NOTIFY: no job is enqueued, "
        f"claimed or finished, and no session is saved.{also}",
        advice="Give the alias the address of the primary, or all hosts and "
        'OPTIONS={"target_session_attrs": "read-write"}.',
        data={"unlogged_tables": unread, "caches": caches},
    )


def examine_routed_reads(alias: str) -> Iterator[Finding]:
    """D092: a router sends reads of our tables to a standby."""
    routed = defaultdict(list)
    for model in apps.get_app_config(APP).get_models():
        if belongs_to(alias, model) and (other := router.db_for_read(model)) != alias:
            routed[other].append(name_of(model._meta.db_table))  # noqa: SLF001 - documented
    for other, tables in routed.items():
        if connections[other].vendor != "postgresql" or not _is_standby(other):
            continue
        unread = sorted(set(tables) & set(_unlogged(other)))
        error = f" Of {named(unread)} there is nothing to read: {REPLICA}." if unread else ""
        yield Finding(
            id="D092",
            level=Level.ERROR if unread else Level.WARNING,
            fact=f"DATABASE_ROUTERS send reads of {counted(len(tables), 'table')} of ours to the standby {other!r}, "
            f"which is behind: a result or a session that was just written is missing there.{error}",
            advice=f"Let db_for_read() return {alias!r} for models of pgonly_django "
            "(docs/how-to/several_databases.md#replicas).",
            data={"alias": other, "tables": sorted(tables), "unlogged_tables": unread},
        )


def examine_failover(alias: str) -> Iterator[Finding]:
    """D093: a standby is attached, and has nothing of the UNLOGGED tables."""
    (standbys,) = row(alias, ATTACHED)
    unlogged = _unlogged(alias)
    if standbys and unlogged:
        yield Finding(
            id="D093",
            level=Level.INFO,
            fact=f"{counted(standbys, 'standby', 'standbys')} of this server {'has' if standbys == 1 else 'have'} "
            f"nothing of the UNLOGGED tables {named(unlogged)}: after a failover these are empty.",
            advice='For entries that must outlive it: CACHES[...]["OPTIONS"]["DURABLE"] = True '
            "(docs/how-to/cache.md#options).",
            data={"standbys": standbys, "tables": unlogged},
        )
