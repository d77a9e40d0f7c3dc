"""All that the doctor looks at, in the order of its report. A new subject is a file with functions that yield findings,
and a Subject here; its ids go into docs/how-to/doctor.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from pgonly_django.monitoring.doctor import (
    clocks,
    dead_rows,
    growth,
    indexes,
    jobs,
    listen,
    migrations,
    pools,
    queues,
    server,
    server_settings,
    standby,
    vacuum,
    workers,
)
from pgonly_django.monitoring.doctor.findings import Finding

Part = Callable[[str], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Subject:
    """`parts` are called with an alias, one after the other. One that fails takes no other with it. `needs_tables`: all
    of them read tables of ours."""

    name: str
    title: Promise | str
    parts: tuple[Part, ...]
    needs_tables: bool = False


SUBJECTS = (
    Subject(
        "server", _("Server"), (server.examine_server, server.examine_distributed, server.examine_pooler)
    ),
    Subject("tables", _("Tables"), (migrations.examine_placement, migrations.examine_migrations)),
    Subject("indexes", _("Indexes"), (indexes.examine_indexes,), needs_tables=True),
    Subject("queues", _("Queues"), (queues.examine_queues,), needs_tables=True),
    Subject("workers", _("Workers"), (workers.examine_workers,), needs_tables=True),
    Subject("jobs", _("Jobs and code"), (jobs.examine_jobs,), needs_tables=True),
    Subject("listen", _("LISTEN and NOTIFY"), (listen.examine_notify, listen.examine_notify_queue)),
    Subject(
        "vacuum",
        _("Transactions and locks"),
        (
            vacuum.examine_sessions,
            vacuum.examine_locks,
            vacuum.examine_prepared_transactions,
            vacuum.examine_slots,
            vacuum.examine_standbys,
            vacuum.examine_hidden_sessions,
        ),
    ),
    Subject(
        "dead-rows",
        _("Dead rows"),
        (
            dead_rows.examine_server,
            dead_rows.examine_tables,
            dead_rows.examine_autovacuum,
            dead_rows.examine_claim,
            dead_rows.examine_wraparound,
        ),
    ),
    Subject("connections", _("Connections"), (pools.examine_use, pools.examine_pools)),
    Subject(
        "clocks", _("Clocks"), (clocks.examine_this_host, clocks.examine_workers, clocks.examine_enqueuing)
    ),
    Subject(
        "standby",
        _("Standbys"),
        (standby.examine_this_server, standby.examine_routed_reads, standby.examine_failover),
    ),
    Subject(
        "settings",
        _("Settings of PostgreSQL"),
        (
            server_settings.examine_settings,
            server_settings.examine_isolation_option,
            server_settings.examine_plans,
        ),
    ),
    Subject("growth", _("Does the cache need Redis"), (growth.examine_growth,), needs_tables=True),
)
NAMES = tuple(subject.name for subject in SUBJECTS)
