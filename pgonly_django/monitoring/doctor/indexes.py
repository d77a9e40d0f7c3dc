"""The indexes of our tables, compared with what the applied migrations declare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgonly_django.monitoring.doctor.declared import Index, declared
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import OUR_TABLES, parameters
from pgonly_django.monitoring.doctor.reading import reading, rows
from pgonly_django.monitoring.doctor.words import counted, identifier, size

MB = 1024**2
# Free pages inside an index are used again. They cost memory and backups, no claim.
BLOATED_BYTES, BLOATED_WARNING_BYTES, BLOATED_TIMES = 8 * MB, 32 * MB, 4
# What an entry takes beside its columns, how full pages are, and how wide a column is that has no statistics.
ENTRY_BYTES, FILL, UNKNOWN_WIDTH = 16, 0.7, 40

# The widths are NULL for a role that may not read the table. For its expressions an index has statistics, too.
FOUND = f"""
WITH {OUR_TABLES}
SELECT t.schema, t.name, c.relname::text, indisvalid AND indisready AND indislive, indisunique, indnkeyatts,
    indpred IS NOT NULL, pg_relation_size(c.oid), c.reltuples::float8, a.amname = 'btree', (
        SELECT sum(coalesce(s.avg_width, {UNKNOWN_WIDTH}) + 4) FROM unnest(indkey) WITH ORDINALITY AS k(number, place)
        LEFT JOIN pg_attribute AS column_ ON column_.attrelid = CASE k.number WHEN 0 THEN c.oid ELSE t.oid END
            AND column_.attnum = CASE k.number WHEN 0 THEN k.place ELSE k.number END
        LEFT JOIN pg_stats AS s ON s.schemaname = t.schema AND s.attname = column_.attname
            AND s.tablename = CASE k.number WHEN 0 THEN c.relname ELSE t.name END
    )::float8,
    EXISTS (SELECT FROM pg_stat_progress_create_index AS now
        WHERE now.datname = current_database() AND now.index_relid = c.oid)
FROM our_tables AS t JOIN pg_index ON indrelid = t.oid JOIN pg_class AS c ON c.oid = indexrelid
JOIN pg_am AS a ON a.oid = c.relam
ORDER BY t.name, c.relname
"""


THERE = f"WITH {OUR_TABLES} SELECT name FROM our_tables"


@dataclass(frozen=True, slots=True)
class FoundIndex:
    schema: str
    table: str
    name: str
    is_usable: bool
    is_unique: bool
    keys: int
    is_partial: bool
    bytes: int
    entries: float  # as the last VACUUM or ANALYZE counted them; -1: none did
    is_btree: bool
    width: float  # of the columns of an entry
    is_being_built: bool

    @property
    def sql_name(self) -> str:
        return identifier(self.schema, self.name)

    @property
    def expected_bytes(self) -> float:
        return self.entries * (ENTRY_BYTES + self.width) / FILL

    def differs_from(self, index: Index) -> bool:
        return (self.is_unique, self.keys, self.is_partial) != (index.is_unique, index.keys, index.is_partial)


def examine_indexes(alias: str) -> Iterator[Finding]:
    """D041: one is missing. D042: one is another than its name says. D043: one is invalid. D044: one is bloated."""
    with reading(alias):
        wanted = {index.name: index for index in declared(alias).indexes}
    found = {each.name: each for each in _found(alias)}
    tables = {name for (name,) in rows(alias, THERE, parameters())}
    for name, index in wanted.items():
        if name not in found:
            if index.table in tables:  # else the table itself is missing, which D051 says
                yield _missing(index)
        elif found[name].differs_from(index):
            yield _different(index, found[name])
    for each in found.values():
        if not each.is_usable:
            yield _invalid(each, is_ours=each.name in wanted)
        elif finding := _bloated(each):
            yield finding


def _found(alias: str) -> list[FoundIndex]:
    return [FoundIndex(*row) for row in rows(alias, FOUND, parameters())]


def _missing(index: Index) -> Finding:
    return Finding(
        id="D041",
        level=Level.ERROR,
        fact=f"The index {index.name} of the table {index.table} is missing: statements that rely on it read all rows.",
        advice=f"{index.sql};",
        data={"index": index.name, "table": index.table},
    )


def _different(index: Index, found: FoundIndex) -> Finding:
    return Finding(
        id="D042",
        level=Level.ERROR,
        fact=f"The index {index.name} of the table {index.table} is not the one that the migrations declare: it has "
        f"{counted(found.keys, 'column')}{', a condition' if found.is_partial else ''}"
        f"{', unique' if found.is_unique else ''}.",
        advice=f"DROP INDEX CONCURRENTLY {found.sql_name}; {index.sql};",
        data={"index": index.name, "table": index.table},
    )


def _invalid(found: FoundIndex, *, is_ours: bool) -> Finding:
    data = {"index": found.name, "table": found.table}
    if found.is_being_built:
        fact = f"The index {found.name} is being built at the moment, and not used yet."
        return Finding(id="D043", level=Level.INFO, fact=fact, advice="Wait until it is done.", data=data)
    rebuild, drop = (
        f"REINDEX INDEX CONCURRENTLY {found.sql_name};",
        f"DROP INDEX CONCURRENTLY {found.sql_name};",
    )
    return Finding(
        id="D043",
        level=Level.ERROR if is_ours else Level.WARNING,
        fact=f"The index {found.name} of the table {found.table} is invalid: CREATE INDEX or REINDEX CONCURRENTLY was "
        "interrupted. Queries do not use it, and each write pays for it.",
        advice=rebuild if is_ours else f"It is a left-over: {drop}",
        data=data,
    )


def _bloated(found: FoundIndex) -> Finding | None:
    wasted = found.bytes - found.expected_bytes
    is_known = found.is_btree and found.entries >= 0
    if not is_known or wasted < BLOATED_BYTES or found.bytes < BLOATED_TIMES * found.expected_bytes:
        return None
    return Finding(
        id="D044",
        level=Level.WARNING if wasted >= BLOATED_WARNING_BYTES else Level.INFO,
        fact=f"The index {found.name} takes {size(found.bytes)}, and its "
        f"{counted(int(found.entries), 'entry', 'entries')} need about {size(found.expected_bytes)}.",
        advice=f"REINDEX INDEX CONCURRENTLY {found.sql_name};",
        data={
            "index": found.name, "table": found.table, "bytes": found.bytes, "entries": int(found.entries),
            "expected_bytes": int(found.expected_bytes),
        },
    )  # fmt: skip
