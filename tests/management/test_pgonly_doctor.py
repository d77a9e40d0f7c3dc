"""manage.py pgonly_doctor, as a person and as monitoring call it."""

from __future__ import annotations

import json
from functools import partial

import pytest
from django.core.management import CommandError, call_command

from tests import zygote
from tests.aliases import alias
from tests.children import environment
from tests.management import outcome
from tests.queue.rows import HOUR, ago, make, make_worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def doctor(capsys):
    """`doctor("--only", "queues")`: its exit code, and what it printed."""

    return partial(outcome, capsys, "pgonly_doctor")


def test_the_report_has_a_line_for_what_is_well_and_the_advice_for_what_is_not(doctor):
    make_worker(queues=["mail"])
    make(queue="ai", ready_at=ago(HOUR))
    code, report = doctor("--only", "queues,workers")
    assert code == 1
    lines = report.splitlines()
    assert lines[0].startswith("PostgreSQL ")
    assert "ok       Workers" in lines
    assert "error    D111 Queues" in lines
    assert "         -> Start one: manage.py runworker --queues ai" in lines
    assert lines[-1].startswith("1 error, after ")


def test_exit_codes(doctor):
    make_worker()
    make(ready_at=ago(HOUR / 6))
    queues = ["--only", "queues"]
    assert doctor(*queues)[0] == 0  # a warning
    assert doctor(*queues, "--fail-on", "warning")[0] == 1
    make_worker(queues=["x"])
    make(ready_at=ago(2 * HOUR))
    assert doctor(*queues)[0] == 1
    assert doctor(*queues, "--fail-on", "never")[0] == 0
    assert doctor("--skip", "queues", "--only", "queues,workers")[0] == 0


def test_programs_get_the_findings(doctor):
    make_worker(queues=["mail"])
    make(queue="ai", ready_at=ago(HOUR))
    code, text = doctor("--json", "--only", "queues", "--only", "workers")
    report = json.loads(text)
    assert code == 1
    assert report["counts"] == {"error": 1, "warning": 0, "info": 0}
    assert report["subjects"] == ["queues", "workers"]
    (finding,) = report["findings"]
    assert finding["id"] == "D111"
    assert finding["level"] == "error"
    assert finding["data"]["queue"] == "ai"
    assert {"subject", "fact", "advice"} <= set(finding)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "vacum"], "--only 'vacum' is not a subject; did you mean 'vacuum'"),
        (["--skip", "queues,x"], "--skip 'x' is not a subject"),
        (["--database", "defualt"], "--database 'defualt' is not in DATABASES"),
        (["--database", "lite"], r"DATABASES\['lite'\] is sqlite"),
    ],
)
def test_a_wrong_flag(flags, message, any_database):
    lite = alias("lite", ENGINE="django.db.backends.sqlite3", NAME=":memory:")
    with lite, pytest.raises(CommandError, match=message) as raised:
        call_command("pgonly_doctor", *flags)
    assert raised.value.returncode == 2


def run(*arguments, **variables):
    command = ["manage.py", "pgonly_doctor", *arguments]
    return zygote.run(command, env=environment(**variables))


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told_without_a_traceback():
    away = {"DATABASE_URL": "postgres://nobody@127.0.0.1:9/x"}
    done = run(**away)
    assert done.returncode == 2
    assert "Cannot ask the database 'default'" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--json", **away)
    assert done.returncode == 2
    assert "error" in json.loads(done.stdout)
