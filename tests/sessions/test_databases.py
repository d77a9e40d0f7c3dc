"""Sessions in a database of their own."""

from __future__ import annotations

from typing import ClassVar

import pytest
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor

from pgonly_django.models import Session
from pgonly_django.tables import TABLES, name_of
from tests.aliases import alias, new_database
from tests.elsewhere import needs_search_path
from tests.sql import sql
from tests.worker.rounds import a_round

CACHE = {"cacheentry", "durablecacheentry", "cacheusage", "cachelock"}


class ModelsApart:
    """Each kind of model has a database: what is migrated where is asked model by model."""

    here: ClassVar[set[str]] = set()
    are_here = True

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return db != "other" or (model_name in self.here) == self.are_here


@pytest.fixture
def empty_database(db, any_database):
    """An alias "other" with a database of its own."""
    with new_database("other") as name, alias("other", NAME=name):
        yield connections["other"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "are_here", "expected"),
    [
        ({"session"}, True, {"pgonly_session"}),
        (CACHE, True, {"pgonly_cache", "pgonly_cache_durable", "pgonly_cache_usage", "pgonly_cache_lock"}),
        ({"session", *CACHE}, False, {"pgonly_job", "pgonly_worker"}),
    ],
)
def test_a_router_may_send_each_kind_of_model_elsewhere(
    settings, empty_database, monkeypatch, models, are_here, expected
):
    settings.DATABASE_ROUTERS = [f"{__name__}.ModelsApart"]
    monkeypatch.setattr(ModelsApart, "here", models)
    monkeypatch.setattr(ModelsApart, "are_here", are_here)
    executor = MigrationExecutor(empty_database)
    executor.migrate(executor.loader.graph.leaf_nodes("pgonly_django"))
    tables = {name_of(name) for name in empty_database.introspection.table_names()} & set(TABLES)
    assert tables == expected if are_here else tables >= expected
    assert tuned_tables(empty_database) >= expected & {"pgonly_session", "pgonly_job", "pgonly_cache"}


def tuned_tables(database) -> set[str]:
    """The tables with settings of their own, as RunSQL leaves them."""
    query = "SELECT relname FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
    return {name for (name,) in sql(query, using=database.alias)}


class SessionsElsewhere:
    def db_for_read(self, model, **hints):
        return "elsewhere" if model is Session else None

    db_for_write = db_for_read


@pytest.fixture
def sessions_elsewhere(settings, transactional_db):
    """In another schema, as another database has it."""
    sql("CREATE SCHEMA elsewhere")
    sql("CREATE TABLE elsewhere.pgonly_session (LIKE pgonly_session INCLUDING ALL)")
    connections["elsewhere"] = connection.copy("elsewhere")
    connections["elsewhere"].settings_dict["OPTIONS"] |= {"options": "-c search_path=elsewhere"}
    settings.DATABASE_ROUTERS = [f"{__name__}.SessionsElsewhere"]
    yield
    connections["elsewhere"].close()
    del connections["elsewhere"]
    sql("DROP SCHEMA elsewhere CASCADE")


@needs_search_path
@pytest.mark.usefixtures("sessions_elsewhere")
def test_the_worker_prunes_sessions_where_they_are():
    Session.objects.create(key_hash="00" * 32, data={}, expires_at="2020-01-01T00:00Z")
    a_round()
    assert not Session.objects.exists()
