"""CockroachDB, newer versions than tested, and settings that break promises.

CockroachDB cannot be started here, so functions stand before those of the catalog; what it says was taken from its
documentation.
"""

from __future__ import annotations

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connections
from psycopg import IsolationLevel

from pgonly_django import compat
from pgonly_django.database.server_kind import check_server, kind_of
from pgonly_django.monitoring.findings import Level
from tests.monitoring.doctor.conftest import as_alias, found, version

COCKROACH = "CockroachDB CCL v25.4.14 (x86_64-pc-linux-gnu, built 2026/05/01 00:00:00, go1.25)"


def test_postgresql_is_no_finding(own_server):
    assert own_server.found("server") == {}
    with connections["own"].cursor() as cursor:
        assert kind_of(cursor).label.startswith("PostgreSQL 1")


def test_cockroachdb_is_refused_by_name_and_nothing_else_is_looked_at(pretend):
    pretend(version(COCKROACH))
    findings = found(database="fake")
    assert list(findings) == ["D010"]
    assert findings["D010"].level == Level.ERROR
    assert "DATABASES['fake'] is CockroachDB" in findings["D010"].fact


def test_the_system_check_refuses_cockroachdb_before_migrate(pretend):
    assert check_server(databases=["fake", "default"]) == []
    pretend(version(COCKROACH))
    (error,) = check_server(databases=["fake", "default"])
    assert error.id == "pgonly_django.E060"
    assert error.level == checks.ERROR
    with pytest.raises(CommandError, match="is CockroachDB, on which pgonly_django does not work"):
        call_command("migrate", "pgonly_django", database="fake", verbosity=0, skip_checks=False)


def test_cockroachdb_that_django_takes_for_an_old_postgresql(pretend, monkeypatch):
    """Those of last year say that they are PostgreSQL 13, which Django refuses without saying whose it is."""
    pretend(version(COCKROACH))
    wrapper = connections["fake"]
    wrapper.close()
    monkeypatch.setattr(wrapper.features, "minimum_database_version", (99,))
    assert [each.id for each in check_server(databases=["fake"])] == ["pgonly_django.E060"]
    assert list(found(database="fake")) == ["D010"]


def informations(*databases):
    """What `check --database` says of versions."""
    found = [each for each in checks.run_checks(databases=databases) if each.id == "pgonly_django.I060"]
    assert {each.level for each in found} <= {checks.INFO}
    return [each.msg.partition(" is newer than ")[0] for each in found]


@pytest.mark.parametrize("release", ["{}.0", "{}.2 (Debian {}.2-1.pgdg13+1)", "{}beta1", "{}devel"])
def test_a_postgresql_that_is_newer_than_tested_is_an_information(pretend, release):
    (tested,) = compat.TESTED["PostgreSQL"]
    release = release.format(tested + 1, tested + 1)
    pretend(version(f"PostgreSQL {release} on x86_64-pc-linux-gnu, compiled by gcc, 64-bit"))
    newer = f"PostgreSQL {release.split()[0]}"
    assert informations("fake") == [newer]
    assert informations() == []
    finding = found("server", database="fake")["D017"]
    assert finding.level == Level.INFO
    assert finding.fact.startswith(f"{newer} is newer than {tested}, the newest that ")
    call_command("check", databases=["fake"], fail_level="WARNING")
    call_command("migrate", "pgonly_django", database="fake", plan=True, verbosity=0, skip_checks=False)


@pytest.mark.parametrize("release", ["14.1", "18.9", "18.10 (Ubuntu 18.10-0ubuntu0.26.04.1)"])
def test_a_postgresql_that_is_tested_is_none(pretend, release):
    pretend(version(f"PostgreSQL {release} on x86_64-pc-linux-gnu, compiled by gcc, 64-bit"))
    assert informations("fake") == []


def test_an_old_postgresql_is_refused_by_django_alone(pretend, monkeypatch):
    pretend(version("PostgreSQL 13.4 on x86_64-pc-linux-gnu"))
    wrapper = connections["fake"]
    wrapper.close()
    monkeypatch.setattr(wrapper.features, "minimum_database_version", (99,))
    monkeypatch.setattr(
        "django.db.backends.base.base.RAN_DB_VERSION_CHECK", set()
    )  # it looks once in a process
    assert check_server(databases=["fake"]) == []
    with pytest.raises(
        CommandError, match=r"Cannot ask the database 'fake': PostgreSQL 99 or later is required"
    ):
        call_command("pgonly_doctor", database="fake")


@pytest.mark.parametrize(("name", "tested"), [("Python", (3, 10)), ("Django", (5, 1))])
def test_a_python_or_django_that_is_newer_than_tested_is_an_information(
    own_server, monkeypatch, name, tested
):
    monkeypatch.setitem(compat.TESTED, name, tested)
    assert [each.split()[0] for each in informations("default")] == [name]
    assert own_server.found("server")["D017"].fact.startswith(f"{name} ")
    assert own_server.found("server")["D017"].level == Level.INFO


SETTINGS = [
    ("D135", "synchronous_commit", "off"),
    ("D136", "default_transaction_isolation", "'serializable'"),
    ("D136", "default_transaction_isolation", "'repeatable read'"),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("id_", "name", "value"), SETTINGS)
def test_a_setting_of_the_role_is_changed_back_by_the_sql_of_the_advice(own_server, id_, name, value):
    assert own_server.found("settings") == {}
    own_server.execute(f"ALTER ROLE postgres SET {name} = {value}")
    findings = own_server.found("settings")
    assert list(findings) == [id_]
    assert findings[id_].level == Level.WARNING
    assert f"{name} is " in findings[id_].fact
    assert "by ALTER ROLE" in findings[id_].fact
    own_server.execute(findings[id_].advice.partition("; and")[0])
    assert own_server.found("settings") == {}


def test_where_a_setting_comes_from(own_server):
    own_server.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    finding = own_server.found("settings")["D135"]
    assert "(by ALTER DATABASE)" in finding.fact
    own_server.execute(finding.advice.partition("; and")[0])
    assert own_server.found("settings") == {}  # that of the role wins
    own_server.execute("ALTER ROLE postgres IN DATABASE postgres SET synchronous_commit = off")
    own_server.execute(own_server.found("settings")["D135"].advice.partition("; and")[0])
    assert own_server.found("settings") == {}
    own_server.execute(
        "ALTER DATABASE postgres RESET ALL", "ALTER ROLE postgres IN DATABASE postgres RESET ALL"
    )
    with as_alias(own_server.server, "other", OPTIONS={"options": "-c synchronous_commit=off"}):
        finding = found("settings", database="other")["D135"]
        assert "take it out of OPTIONS" in finding.advice


def test_an_isolation_level_in_options(own_server):
    options = {"isolation_level": IsolationLevel.SERIALIZABLE}
    with as_alias(own_server.server, "other", OPTIONS=options):
        finding = found("settings", database="other")["D136"]
        assert "is serializable" in finding.fact
        assert "(by OPTIONS)" in finding.fact
    own_server.execute("ALTER ROLE postgres SET default_transaction_isolation = 'serializable'")
    options = {"isolation_level": IsolationLevel.READ_COMMITTED}
    with as_alias(own_server.server, "other", OPTIONS=options):
        assert found("settings", database="other") == {}
