"""Settings of the role, the database and the connection that change what statements do."""

from __future__ import annotations

import pytest
from psycopg import IsolationLevel

from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import as_alias, found
from tests.pooler import pgbouncer

SETTINGS = [
    ("D131", "statement_timeout", "'800ms'", Level.WARNING),
    ("D131", "statement_timeout", "'30s'", Level.INFO),
    ("D132", "idle_in_transaction_session_timeout", "'5s'", Level.WARNING),
    ("D132", "idle_in_transaction_session_timeout", "'10min'", Level.INFO),
    ("D133", "lock_timeout", "'200ms'", Level.WARNING),
    ("D134", "transaction_timeout", "'30s'", Level.WARNING),
    ("D135", "synchronous_commit", "off", Level.WARNING),
    ("D135", "synchronous_commit", "remote_apply", Level.INFO),
    ("D136", "default_transaction_isolation", "'serializable'", Level.WARNING),
    ("D137", "default_transaction_read_only", "on", Level.ERROR),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("id_", "name", "value", "level"), SETTINGS)
def test_a_setting_of_the_role_is_changed_back_by_the_sql_of_the_advice(own_server, id_, name, value, level):
    assert own_server.found("settings") == {}
    own_server.execute(f"ALTER ROLE postgres SET {name} = {value}")
    findings = own_server.found("settings")
    assert list(findings) == [id_]
    assert findings[id_].level == level
    assert f"{name} is " in findings[id_].fact
    assert "by ALTER ROLE" in findings[id_].fact
    own_server.execute(findings[id_].advice.partition("; and")[0])
    assert own_server.found("settings") == {}


def test_where_a_setting_comes_from(own_server):
    own_server.execute("ALTER DATABASE postgres SET lock_timeout = '100ms'")
    finding = own_server.found("settings")["D133"]
    assert "(by ALTER DATABASE)" in finding.fact
    own_server.execute(finding.advice.partition("; and")[0])
    assert own_server.found("settings") == {}  # that of the role wins
    own_server.execute("ALTER DATABASE postgres RESET lock_timeout")
    with as_alias(own_server.server, "other", OPTIONS={"options": "-c statement_timeout=900"}):
        finding = found("settings", database="other")["D131"]
        assert 'Take statement_timeout out of OPTIONS["options"]' in finding.advice


def test_an_isolation_level_in_options(own_server):
    options = {"isolation_level": IsolationLevel.SERIALIZABLE}
    with as_alias(own_server.server, "other", OPTIONS=options):
        finding = found("settings", database="other")["D136"]
        assert "is serializable" in finding.fact


def test_settings_of_the_planner_count_behind_a_pooler_alone(own_server):
    own_server.execute("ALTER ROLE postgres SET plan_cache_mode = 'force_custom_plan'")
    assert own_server.found("settings") == {}
    host = str(own_server.server.socket_directory)
    place = {"HOST": host, "PORT": "", "USER": "postgres", "PASSWORD": "", "OPTIONS": {}}
    with pgbouncer(place) as port, as_alias(own_server.server, "pooled", HOST="127.0.0.1", PORT=str(port)):
        finding = found("settings", database="pooled")["D138"]
        assert finding.level == Level.INFO
        assert finding.data["name"] in ("plan_cache_mode", "jit")
