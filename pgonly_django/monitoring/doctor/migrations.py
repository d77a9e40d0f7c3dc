"""Whether the tables are those of this version, and where they should be."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import connections

from pgonly_django.database.placement import MOVE, find, what_is_wrong
from pgonly_django.monitoring.doctor.declared import declared
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.reading import reading
from pgonly_django.monitoring.doctor.words import counted, database_flag, named


def examine_placement(alias: str) -> Iterator[Finding]:
    """D053: tables are in another schema than PGONLY["SCHEMA"] says, or the role may not use that."""
    with reading(alias):
        problem = what_is_wrong(connections[alias])
    if problem:
        yield Finding(id="D053", level=Level.ERROR, fact=problem, advice=f"See {MOVE}.")


def examine_migrations(alias: str) -> Iterator[Finding]:
    """D051: migrations are applied, and a table of theirs is missing. D052: migrations are not applied. D054: those of
    a later version are."""
    with reading(alias):
        wanted, placement = declared(alias), find(connections[alias])
    elsewhere = {name for names in placement.misplaced.values() for name in names}
    for name in wanted.tables:
        if name not in placement.at_place and name not in elsewhere:
            yield _missing(alias, name)
    if wanted.pending:
        yield Finding(
            id="D052",
            level=Level.ERROR,
            fact=f"{counted(len(wanted.pending), 'migration')} of pgonly_django "
            f"{'is' if len(wanted.pending) == 1 else 'are'} not applied: {named(wanted.pending)}.",
            advice=f"manage.py migrate pgonly_django{database_flag(alias)}",
            data={"pending": wanted.pending},
        )
    if wanted.unknown:
        yield Finding(
            id="D054",
            level=Level.INFO,
            fact=f"The database has migrations of a later version of pgonly_django: {named(wanted.unknown)}.",
            advice="This version works over them. Update it here, too, when the deploy is done.",
            data={"unknown": wanted.unknown},
        )


def _missing(alias: str, name: str) -> Finding:
    return Finding(
        id="D051",
        level=Level.ERROR,
        fact=f"The table {name} is missing, and the migrations that make it are marked as applied.",
        advice="Restore it from a backup. Or, where all tables of pgonly_django are gone, make them again: "
        f"manage.py migrate --fake pgonly_django zero{database_flag(alias)} && "
        f"manage.py migrate pgonly_django{database_flag(alias)}",
        data={"table": name},
    )
