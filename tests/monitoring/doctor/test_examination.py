"""The whole examination: silent where all is well, and polite where it may not look."""

from __future__ import annotations

import json

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

from pgonly_django.conf import schema
from pgonly_django.monitoring.doctor import examination
from pgonly_django.monitoring.doctor.examination import NAMES, SUBJECTS, Subject, examine
from pgonly_django.monitoring.findings import Finding, Level, identifier
from tests.jobs import add
from tests.monitoring.doctor.conftest import as_alias, found
from tests.sql import setting, sql
from tests.waiting import wait_for


@pytest.mark.slow
def test_a_healthy_database_with_a_running_worker_has_no_finding_above_a_note(workers, server):
    workers.start(lease=60)
    result = add.enqueue(1, 2)
    wait_for(lambda: result.refresh() or result.is_finished)
    report = examine("default")
    assert [each for each in report.findings if each.level != Level.INFO] == []
    assert [each.name for each in report.subjects] == list(NAMES)
    assert report.server.startswith("PostgreSQL ")
    json.dumps(report.as_dict())


@pytest.mark.slow
def test_the_examination_writes_nothing(own_server, django_assert_max_num_queries):
    own_server.found()
    before = own_server.execute("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")
    own_server.found()
    own_server.execute("SELECT pg_stat_force_next_flush()")
    assert (
        own_server.execute("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables") == before
    )


@pytest.fixture
def few(own_server):
    """The alias "few": a role that may log in, and nothing else."""
    own_server.execute("CREATE ROLE few LOGIN")
    with as_alias(own_server.server, "few", USER="few"), psycopg.connect(own_server.server.url()):
        yield own_server
    own_server.execute("DROP OWNED BY few", "DROP ROLE few")


@pytest.mark.slow
def test_a_role_with_few_rights_is_told_which_to_grant(few):
    granted = []
    while missing := [each for each in examine("few").findings if each.id == "D001"]:
        assert {each.level for each in missing} == {Level.INFO}
        granted += [each.advice for each in missing]
        assert len(granted) < 100, "each GRANT lets it see more, until there is none left to give"
        few.execute(*(each.advice for each in missing))
        connections["few"].close()
    assert f'GRANT SELECT ON {identifier(*filter(None, [schema()]), "pgonly_job")} TO "few";' in granted
    assert 'GRANT pg_read_all_stats TO "few";' in granted


def test_a_part_that_fails_takes_no_other_with_it(monkeypatch, transactional_db):
    def fails(alias):
        yield Finding(id="D999", level=Level.INFO, fact="before", advice="")
        raise KeyError("a bug of ours")

    def cannot(alias):
        sql("SELECT * FROM what_is_not_there")
        yield from ()

    monkeypatch.setattr(examination, "SUBJECTS", (Subject("new", "New", (fails, cannot)), *SUBJECTS[:2]))
    findings = found()
    assert set(findings) == {"D999", "D004", "D003"}
    assert findings["D004"].level == Level.WARNING
    assert "KeyError: 'a bug of ours'" in findings["D004"].fact
    assert 'relation "what_is_not_there" does not exist' in findings["D003"].fact
    assert {each.subject for each in findings.values()} == {"new"}


def test_a_look_that_takes_too_long_is_stopped(monkeypatch, transactional_db):
    from datetime import timedelta

    from pgonly_django.monitoring.doctor import reading

    monkeypatch.setattr(reading, "TIME_LIMIT", timedelta(milliseconds=50))
    sleeps = Subject("slow", "Slow", (lambda alias: reading.rows(alias, "SELECT pg_sleep(5)"),))
    monkeypatch.setattr(examination, "SUBJECTS", (sleeps,))
    assert "took longer than 0.05 s" in found()["D002"].fact
    monkeypatch.setattr(examination, "WHOLE_SECONDS", -1)
    assert list(found()) == ["D005"]


def test_a_database_that_goes_away_is_an_error(own_server, monkeypatch):
    def ends(alias):
        own_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "
            "backend_type = 'client backend'"
        )
        sql("SELECT 1", using=alias)
        yield from ()

    monkeypatch.setattr(examination, "SUBJECTS", (Subject("gone", "Gone", (ends,)),))
    with pytest.raises(DatabaseError):
        own_server.found()


def test_a_caller_without_autocommit_may_write_afterwards(transactional_db):
    transaction.set_autocommit(False)
    try:
        examine("default", only=["server", "queues"])
        sql("SET LOCAL statement_timeout = '42s'")
        examine("default", only=["server", "queues"])
        sql("CREATE TEMP TABLE still_writable (n int)")
        assert setting("statement_timeout") == "42s"
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
