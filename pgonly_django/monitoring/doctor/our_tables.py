"""Our tables in the catalog of a database: in PGONLY["SCHEMA"], else where the search_path finds them."""

from __future__ import annotations

from typing import Any

from django.db import models, router

from pgonly_django.conf import schema
from pgonly_django.monitoring.doctor.reading import row
from pgonly_django.tables import TABLES

# For WITH. Index: pg_class_relname_nsp_index.
OUR_TABLES = """our_tables AS (
    SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relpersistence::text AS persistence,
        c.reloptions AS options, c.reltuples AS rows
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
        AND CASE WHEN %(schema)s = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = %(schema)s END
)"""

ANY = f"WITH {OUR_TABLES} SELECT EXISTS (SELECT FROM our_tables)"


def parameters(**more: Any) -> dict[str, Any]:
    """Those of OUR_TABLES, and `more`."""
    return {"tables": list(TABLES), "schema": schema(), **more}


def are_there(alias: str) -> bool:
    """Whether there is one."""
    return bool(row(alias, ANY, parameters())[0])


def belongs_to(alias: str, model: type[models.Model]) -> bool:
    """Whether the routers let migrations make the model's table in this database."""
    return bool(router.allow_migrate_model(alias, model))
