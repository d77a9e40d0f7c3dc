"""manage.py pgonly_health, as a person and as monitoring call it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from pgonly_django.models import Queue, State
from pgonly_django.queue import health as queries
from tests import zygote
from tests.aliases import alias
from tests.children import environment
from tests.management import outcome
from tests.queue.rows import HOUR, ago, make, make_waiting, make_worker
from tests.sql import setting

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def health(capsys):
    """`health("--max-failed", 3)`: its exit code, and the lines that it printed."""

    def call(*arguments):
        code, printed = outcome(capsys, "pgonly_health", *arguments)
        return code, printed.splitlines()

    return call


def test_without_limits_only_the_workers_are_judged(health):
    make(ready_at=ago(HOUR), queue="mail")
    make(state=State.FAILED, finished_at=timezone.now())
    code, lines = health()
    assert code == 1
    assert lines[0] == "FAIL  workers       0 live (at least 1)"
    assert health("--min-workers", 0)[0] == 0
    make_worker()
    code, lines = health()
    assert code == 0
    assert [line[:18].rstrip() for line in lines] == [
        "ok    workers", "ok    oldest ready", "ok    latency", "ok    event wait", "ok    failures",
    ]  # fmt: skip
    assert "1 live, the last heartbeat " in lines[0]
    assert lines[1].endswith(" in the queue mail")
    assert lines[2].endswith("no run began within 15 min")
    assert lines[3].endswith("no job waits without a deadline")
    assert lines[4].endswith("1 within 15 min")


def test_each_limit_may_fail(health):
    make_worker(timedelta(seconds=20))
    make(ready_at=ago(HOUR), queue="mail")
    began = ago(timedelta(minutes=1))
    make(state=State.SUCCEEDED, attempted_at=began, ready_at=began - timedelta(seconds=40))
    make(state=State.FAILED, finished_at=began)
    make_waiting(since=HOUR), make_waiting("b", since=2 * HOUR, until=timezone.now() + HOUR)
    for flags, name, limit in (
        (["--max-worker-age", "5"], "workers", "(at least 1)"),
        (["--max-worker-age", "0s"], "workers", "(at least 1)"),
        (["--min-workers", "2"], "workers", "(at least 2)"),
        (["--max-oldest-ready", "5min"], "oldest ready", "(at most 5 min)"),
        (["--max-latency", "0.5"], "latency", "(at most 500 ms)"),
        (["--max-event-wait", "5min"], "event wait    1 h for approve:7", "(at most 5 min)"),
        (["--max-failed", "0"], "failures", "(at most 0)"),
    ):
        code, lines = health(*flags)
        (failed,) = [line for line in lines if line.startswith("FAIL")]
        assert code == 1
        assert failed.startswith(f"FAIL  {name}")
        assert failed.endswith(limit)
    wide = ["--max-worker-age", "1h", "--max-oldest-ready", "2h", "--max-latency", "90s", "--max-failed", "1"]
    assert health(*wide)[0] == 0
    assert health(*wide, "--max-failed", "0", "--within", "10s")[0] == 0


def test_one_queue_is_looked_at_alone(health):
    make_worker(queues=["mail"])
    make(ready_at=ago(HOUR), queue="ai")
    limits = ["--max-oldest-ready", "60"]
    assert health(*limits)[0] == 1
    assert health(*limits, "--queue", "mail")[0] == 0
    code, lines = health(*limits, "--queue", "ai")
    assert code == 1
    assert [line[:4] for line in lines] == ["FAIL", "FAIL", "ok  ", "ok  ", "ok  "]  # no worker serves it
    assert health(*limits, "--queue", "ai", "--queue", "mail")[0] == 1


def test_a_queue_that_nothing_names_is_said(capsys):
    make_worker(queues=["mail"])
    make_worker(queues=[])
    make(queue="ai")
    Queue.objects.create(name="slow", max_running=1)
    named = [part for name in ("mail", "ai", "slow", "mial") for part in ("--queue", name)]
    call_command("pgonly_health", *named)
    assert (
        capsys.readouterr().err
        == "--queue mial: no worker, no job and no limit names it. Check its spelling.\n"
    )


def test_programs_get_numbers(health):
    make_worker()
    waiting = make(ready_at=ago(HOUR), queue="mail")
    code, (line,) = health("--json", "--max-oldest-ready", "5min", "--max-failed", "3")
    found = json.loads(line)
    of = {each.pop("name"): each for each in found["checks"]}
    assert (code, found["healthy"]) == (1, False)
    assert of["workers"].pop("newest_heartbeat_seconds") < 60
    assert of["workers"] == {"ok": True, "value": 1, "limit": 1, "silent": 0}
    assert of["oldest_ready"].pop("value") == pytest.approx(3600, abs=60)
    assert of["oldest_ready"] == {"ok": False, "limit": 300.0, "queue": "mail", "job": str(waiting.id)}
    assert of["latency"] == {"ok": True, "value": None, "limit": None, "jobs": 0}
    assert of["event_wait"] == {"ok": True, "value": 0.0, "limit": None, "key": None, "job": None}
    assert of["failures"] == {"ok": True, "value": 0, "limit": 3, "within_seconds": 900.0}


def test_latency_looks_behind_the_oldest_job_that_waits(monkeypatch):
    asked = []
    monkeypatch.setattr(queries, "latency", lambda *_, before, **__: asked.append(before))
    make_worker()
    oldest = make(ready_at=ago(HOUR))
    make()
    call_command("pgonly_health")
    assert asked == [oldest.id]


@pytest.mark.parametrize(
    "flags",
    [
        ("--within", "abc"), ("--max-latency", "-1"), ("--max-failed", "x"), ("--max-failed", "9" * 5000),
        ("--within", "99999999999999d"), ("--database", "no"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_refused(flags):
    with pytest.raises(CommandError):
        call_command("pgonly_health", *flags)


def test_what_cannot_be_asked_is_unknown_and_not_unhealthy(health, any_database):
    with alias("gone", HOST="127.0.0.1", PORT="1", OPTIONS={}):
        code, lines = health("--database", "gone", "--json")
    assert code == 2
    found = json.loads(lines[0])
    assert found["healthy"] is None
    assert found["error"].startswith("Cannot ask PostgreSQL (gone): connection")


def test_without_tables_it_says_what_to_type(any_database):
    with (
        alias("bare", NAME="postgres"),
        pytest.raises(CommandError, match=r"Run: python manage\.py migrate --database bare") as caught,
    ):
        call_command("pgonly_health", "--database", "bare")
    assert caught.value.returncode == 2


def test_in_a_transaction_of_the_caller_no_setting_changes(health):
    before = setting("statement_timeout")
    health()
    assert setting("statement_timeout") == before


@pytest.mark.django_db(transaction=True)
def test_a_database_that_does_not_answer_in_time_is_unknown(monkeypatch, other):
    from pgonly_django.management.commands import pgonly_health

    monkeypatch.setattr(pgonly_health, "STATEMENT_TIMEOUT", timedelta(milliseconds=100))
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(CommandError, match="statement timeout") as caught:
            call_command("pgonly_health")
    assert caught.value.returncode == 2
    assert setting("statement_timeout") != "100ms"


@pytest.mark.django_db(transaction=True)
def test_it_exits_with_its_code():
    ended = zygote.run(["manage.py", "pgonly_health", "--json"], env=environment())
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["healthy"] is False
    assert "Not healthy: workers." in ended.stderr
