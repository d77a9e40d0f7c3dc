"""Which server is at the other end: PostgreSQL, or one that speaks its protocol and leaves some of it out.

What each says of itself was taken from its own documentation, or from programs that are tested against it: version()
of CockroachDB begins with its name, that of YugabyteDB has "-YB-"; Aurora has the function aurora_version(), Neon
the setting neon.timeline_id, Supabase the role supabase_admin, Citus is an extension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from django.core import checks
from django.db import connections, router

from pgonly_django import compat
from pgonly_django.database import testrun
from pgonly_django.database.connect import connect

ERROR_ID = "pgonly_django.E060"
COCKROACH = "CockroachDB"
REFUSED = (
    "DATABASES[{alias!r}] is CockroachDB, on which pgonly_django does not work: it has no LISTEN and NOTIFY, UNLOGGED "
    "has no effect there, and nothing here is tested on it."
)
HINT = "Keep jobs, cache and sessions in a PostgreSQL: see docs/how-to/doctor.md#d010."
NEWER_ID = "pgonly_django.I060"
NEWER = (
    "{name} {version} is newer than {tested}, the newest that this version of pgonly_django was tested with."
)
NEWER_HINT = (
    "Look whether there is a newer pgonly_django, and test your project: see docs/how-to/doctor.md#d017."
)

VERSION = "SELECT version()"
# Without schemas before the names, as every name here. None of it is an error where it is not there.
MARKS = """
SELECT to_regproc('aurora_version') IS NOT NULL, current_setting('neon.timeline_id', true) IS NOT NULL,
    EXISTS (SELECT FROM pg_roles WHERE rolname = 'supabase_admin'),
    EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
"""


@dataclass(frozen=True, slots=True)
class ServerKind:
    version: str  # as the server says it
    is_aurora: bool = False
    is_neon: bool = False
    is_supabase: bool = False
    has_citus: bool = False

    @property
    def is_cockroach(self) -> bool:
        return self.version.startswith(COCKROACH)

    @property
    def is_yugabyte(self) -> bool:
        return "-YB-" in self.version

    @property
    def label(self) -> str:
        """Names the server: "PostgreSQL 17.2", "Aurora, PostgreSQL 16.4", "CockroachDB CCL v25.4.14"."""
        words = self.version.split(" ")
        version = " ".join(words[: 3 if self.is_cockroach else 2])
        names = {
            "Aurora": self.is_aurora, "Neon": self.is_neon, "Supabase": self.is_supabase, "Citus": self.has_citus,
            "YugabyteDB": self.is_yugabyte,
        }  # fmt: skip
        return ", ".join([*(name for name, is_it in names.items() if is_it), version])


def kind_of(cursor: Any) -> ServerKind:
    """Raises what the cursor raises."""
    cursor.execute(VERSION)
    version = str(cursor.fetchone()[0])
    if version.startswith(COCKROACH):  # which does not know all of MARKS
        return ServerKind(version)
    cursor.execute(MARKS)
    return ServerKind(version, *cursor.fetchone())


def newer_than_tested(version: str) -> Iterator[dict[str, Any]]:
    """Yields the facts of NEWER about a server that says that it has this version."""
    if version.startswith("PostgreSQL "):
        yield from compat.newer_than_tested(PostgreSQL=version.split(" ")[1])


def check_server(databases: Iterable[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """E060: CockroachDB. I060: a newer PostgreSQL, Python or Django than those that were tested. Runs with `check
    --database`, and before `migrate`, which would fail in its middle; the other commands say nothing of versions."""
    found: list[checks.CheckMessage] = []
    newer = list(compat.newer_than_tested())
    for alias in databases or ():
        if router.allow_migrate(alias, "pgonly_django"):
            version = _version_of(alias)
            if version.startswith(COCKROACH):
                found.append(checks.Error(REFUSED.format(alias=alias), hint=HINT, id=ERROR_ID))
            newer += newer_than_tested(version)
    return [*found, *(checks.Info(NEWER.format(**each), hint=NEWER_HINT, id=NEWER_ID) for each in newer)]


def is_cockroach(alias: str) -> bool:
    return _version_of(alias).startswith(COCKROACH)


def _version_of(alias: str) -> str:
    """Returns "" where the server does not answer: a check may run without it. It asks on a connection of this
    package: Django refuses last year's CockroachDB as an old PostgreSQL, without its name."""
    vendor = connections[alias].vendor
    if vendor != "postgresql":
        return COCKROACH if vendor == "cockroachdb" else ""  # django-cockroachdb
    try:
        with connect(alias, application_name="pgonly check") as connection:
            row = connection.execute(VERSION).fetchone()
    except (psycopg.Error, testrun.Refusal):
        return ""
    return str(row[0]) if row else ""
