"""Our connections have their own settings, whatever the project has set for its statements."""

from __future__ import annotations

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.database.connect import TRY_AGAIN, connect, connection_params, reaches_postgres
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
THE_PROJECTS = {
    "statement_timeout": "100ms",
    "lock_timeout": "1min",
    "idle_session_timeout": "10min",
    "default_transaction_isolation": "serializable",
    "plan_cache_mode": "auto",
}


@pytest.fixture
def project_settings(transactional_db):
    """A database whose owner has set what suits the statements of web requests."""
    name = connection.settings_dict["NAME"]
    with connect("default", application_name="pgonly tests, owner") as owner:
        for setting, value in THE_PROJECTS.items():
            owner.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
        yield
        owner.execute(f"ALTER DATABASE {name} RESET ALL")


@pytest.fixture
def through_the_pooler(pooler, monkeypatch, transactional_db):
    settings = connections.settings["default"]
    monkeypatch.setitem(settings, "HOST", "127.0.0.1")
    monkeypatch.setitem(settings, "PORT", str(pooler))


def shown(raw, name):
    return raw.execute(f"SHOW {name}").fetchone()[0]


@pytest.mark.usefixtures("project_settings")
def test_what_the_database_sets_for_the_project_does_not_bind_us():
    with connect("default", application_name="pgonly tests") as raw:
        assert raw.apply_session_settings(lock_wait="3s")
        assert raw.execute("SELECT 1 FROM pg_sleep(0.2)").fetchone() == (1,)
        assert (shown(raw, "statement_timeout"), shown(raw, "lock_timeout")) == ("0", "3s")
        assert (shown(raw, "transaction_isolation"), shown(raw, "idle_session_timeout")) == (
            "read committed",
            "0",
        )
        assert shown(raw, "plan_cache_mode") == "force_generic_plan"


@pytest.mark.usefixtures("project_settings", "through_the_pooler")
def test_through_a_pooler_each_transaction_of_ours_sets_its_own_settings_and_no_more():
    with connect("default", application_name="pgonly tests") as raw:
        assert not raw.apply_session_settings(lock_wait="3s")
        assert raw.execute("SELECT 1 FROM pg_sleep(0.2)").fetchone() == (1,)
        assert (shown(raw, "lock_timeout"), shown(raw, "transaction_isolation")) == ("3s", "read committed")
        with raw.pipeline(), raw.session_settings():
            slept = raw.execute("SELECT 1 FROM pg_sleep(0.2)")
            isolation = raw.execute("SHOW transaction_isolation")
        assert (slept.fetchone(), isolation.fetchone()) == ((1,), ("read committed",))
        with psycopg.connect(
            **connection_params("default", application_name="pgonly tests, another"), autocommit=True
        ) as another:
            assert shown(another, "lock_timeout") == "1min"
            assert shown(another, "statement_timeout") == "100ms"


@pytest.mark.usefixtures("through_the_pooler")
@pytest.mark.parametrize("in_pipeline", [True, False])
def test_through_a_pooler_an_error_leaves_no_transaction_open(in_pipeline):
    with connect("default", application_name="pgonly tests") as raw:
        raw.apply_session_settings(lock_wait="3s")
        with pytest.raises(psycopg.errors.DivisionByZero):
            if in_pipeline:
                with raw.pipeline(), raw.session_settings():
                    raw.execute("SELECT 1 / 0")
                    raw.execute("SELECT 1")
            else:
                raw.execute("SELECT 1 / 0")
        assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert raw.execute("SELECT 2").fetchone() == (2,)


@pytest.mark.usefixtures("through_the_pooler")
def test_a_pooler_is_known_by_the_process_id_that_it_invents():
    with connect("default", application_name="pgonly tests") as raw:
        assert not reaches_postgres(raw)


def test_a_statement_that_was_cancelled_or_met_a_lock_may_be_sent_again():
    with connect("default", application_name="pgonly tests") as raw:
        raw.execute("SET statement_timeout = '20ms'")
        with pytest.raises(TRY_AGAIN):
            raw.execute("SELECT pg_sleep(5)")
        assert not raw.closed


def test_our_connections_bear_our_names_unless_the_project_chose_another(monkeypatch):
    settings = connections.settings["default"]
    for given, name in (({}, "pgonly x"), ({"application_name": "pgonly jobs 1"}, "pgonly x"),
                        ({"application_name": "mysite"}, "mysite")):  # fmt: skip
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], **given})
        assert connection_params("default", application_name="pgonly x")["application_name"] == name


def test_our_connections_notice_a_dead_server_as_the_project_has_it_or_within_half_a_minute(monkeypatch):
    settings = connections.settings["default"]
    for given, count in (({}, "3"), ({"keepalives_count": 7}, "7")):
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], **given})
        with connect("default", application_name="pgonly tests") as raw:
            found = raw.info.get_parameters()
        names = ("tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
        assert [found[name] for name in names] == ["30000", "15", "5", count]


def test_a_connection_whose_role_is_refused_is_closed(own):
    connections.settings[own.name]["OPTIONS"]["assume_role"] = "a role that is not there"
    with pytest.raises(psycopg.Error, match="does not exist"):
        connect(own.name, application_name="pgonly tests")
    connections.settings[own.name]["OPTIONS"].pop("assume_role")
    wait_for(lambda: not own.pids())
