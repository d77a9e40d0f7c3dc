"""`check --deploy` on the unfinished jobs that are stored."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.queue import known_names as queries
from pgonly_django.tasks import deploy_checks, registry
from pgonly_django.tasks.deploy_checks import check_stored_jobs
from tests.aliases import alias
from tests.jobs.renamed import add_numbers
from tests.queue.rows import insert_jobs, make, make_running
from tests.sql import sql
from tests.tasks.calls import IMMEDIATE

pytestmark = pytest.mark.django_db(transaction=True)

GONE = "shop.tasks.send_mail"
OURS = {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}


def insert(rows, **columns):
    sql(insert_jobs(rows, **columns))


def test_jobs_that_can_run_are_fine():
    make(args=[1])
    make(args=[1, 2])
    make(args=[], kwargs={"a": 1, "b": 2})
    make(task=add_numbers.module_path, args=[1])
    make(task=add_numbers.aliases[0], args=[1])
    make(task="tests.tasks.calls.with_context", args=[1])
    make(task="tests.tasks.calls.any_number", args=[1] * 3, kwargs={"unit": "km"})
    assert check_stored_jobs() == []


def test_an_alias_in_a_module_that_no_worker_imports_is_an_error(monkeypatch, tmp_path):
    """Here the job of the present path leads to that module; a worker may meet the other job first."""
    monkeypatch.setattr(registry, "_claimed", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from pgonly_django import task\n@task(aliases=['former.send'])\ndef send(): ...\n"
    (tmp_path / "beside_tasks.py").write_text(text)
    for _ in range(2):
        make(task="beside_tasks.send")
    make(task="former.send")
    (error,) = check_stored_jobs()
    assert (
        "It is an alias of beside_tasks.send, whose module a worker would not import for them." in error.msg
    )
    assert "Import it in the `tasks` module of an app" in error.hint
    assert check_stored_jobs() == []  # it is imported by now, as by AppConfig.ready()
    del sys.modules["beside_tasks"]


def test_jobs_that_follow_others_count_too():
    make(args=[1], then_job={"task": "tests.jobs.add", "backend": "default", "args": [1], "kwargs": {}})
    assert check_stored_jobs() == []
    make(args=[1], then_job={"task": GONE, "backend": "default", "args": [], "kwargs": {"a": 1}})
    (error,) = check_stored_jobs()
    assert error.msg.startswith("1 unfinished job of shop.tasks.send_mail")


def test_jobs_of_a_path_that_is_gone_are_one_error_with_their_number():
    for _ in range(3):
        make(task=GONE, args=[1])
    make(task=GONE, args=[1], kwargs={"b": 1})
    make(args=[1])
    (error,) = check_stored_jobs()
    assert (error.id, error.is_serious()) == ("pgonly_django.E501", True)
    assert error.msg == (
        "4 unfinished jobs of shop.tasks.send_mail in the database 'default' cannot run with this code. Cannot import "
        "the task shop.tasks.send_mail: ModuleNotFoundError: No module named 'shop'"
    )
    assert 'give the task aliases=["shop.tasks.send_mail"]' in error.hint
    assert (
        "pgonly_jobs cancel --task shop.tasks.send_mail. See docs/how-to/releases.md#check---deploy"
        in error.hint
    )


def test_a_path_that_another_program_has_written_harms_no_terminal():
    make(task="a.\x1b[2Jb")
    (error,) = check_stored_jobs()
    assert error.msg.startswith(r"1 unfinished job of 'a.\x1b[2Jb' in")


def test_the_hint_works():
    make(task=GONE)
    call_command("pgonly_jobs", "cancel", "--task", GONE)
    assert Job.objects.get().state == State.CANCELLED
    assert check_stored_jobs() == []


@pytest.mark.parametrize("line", ["import not_installed_here", "from json import nothing", "1 / 0"])
def test_a_module_that_fails_while_it_is_imported_is_to_be_mended_and_not_renamed(
    line, monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_tasks.py").write_text(f"{line}\n")
    make(task="broken_tasks.send")
    (error,) = check_stored_jobs()
    assert error.hint.startswith("Fix the import of its module")


@pytest.mark.parametrize("path", ["json.send", "no_dots"])
def test_a_name_that_a_module_does_not_have_is_gone(path):
    make(task=path)
    (error,) = check_stored_jobs()
    assert "give the task aliases" in error.hint


@pytest.mark.parametrize(
    "row",
    [
        {"state": State.READY},
        {"state": State.READY, "crashes": 2},
        {"state": State.READY, "slots": 1, "concurrency_key": "key", "concurrency_limit": 1},
        {"state": State.READY, "slots": 4},
        {"state": State.SCHEDULED, "run_at": timezone.now() + timedelta(days=30)},
        {"state": State.HELD, "held_by": "a person"},
    ],
)
def test_every_unfinished_state_counts(row):
    make(task=GONE, **row)
    (error,) = check_stored_jobs()
    assert error.msg.startswith("1 unfinished job of shop.tasks.send_mail")


def test_running_jobs_count():
    """The deploy releases them, and the next worker goes on with them."""
    make_running(task=GONE)
    make_running(task=GONE, slots=1, concurrency_key="key", concurrency_limit=1)
    (error,) = check_stored_jobs()
    assert error.msg.startswith("2 unfinished jobs of shop.tasks.send_mail")


def test_a_held_job_is_held_by_the_verb_too():
    """The index of held jobs has those with held_by alone."""
    make(task=GONE)
    assert Job.objects.all().hold() == 1
    (error,) = check_stored_jobs()
    assert error.msg.startswith("1 unfinished job")


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_finished_jobs_do_not_count(state):
    make(task=GONE, state=state, finished_at=timezone.now())
    assert check_stored_jobs() == []


def test_jobs_whose_arguments_do_not_fit_are_counted_among_those_of_their_task():
    for _ in range(3):
        make(args=[1])
    for _ in range(2):
        make(args=[1], kwargs={"currency": "EUR"})
    make(args=[1, 2, 3])
    make(args=[1], kwargs={"b": "three", "text": "a" * 10})
    (error,) = check_stored_jobs()
    assert error.msg == (
        "4 of the 7 unfinished jobs of tests.jobs.add in the database 'default' cannot run with this code. "
        "add(a, b=1) cannot be called with these arguments: got an unexpected keyword argument 'currency'."
    )
    assert "Give new parameters a default" in error.hint


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ("tests.jobs.mark", {}, "tests.jobs.mark is not a task but a function."),
        ("tests.exits_when_imported.gone", {}, "Cannot import the task tests.exits_when_imported.gone: SystemExit"),
        ("no dots", {}, "Cannot import the task no dots"),
        ("tests.jobs.add", {"args": []}, "missing a required argument: 'a'"),
        ("tests.tasks.calls.with_context", {"args": [1, 2]}, "cannot be called with these arguments"),
        ("tests.tasks.calls.keyword_only", {"args": [1]}, "argument: 'b'"),
        ("tests.jobs.add", {"args": [1], "backend": "jobs"}, "TASKS has no backend 'jobs' for tests.jobs.add."),
        (
            "tests.jobs.add",
            {"args": [1], "options": {"backoff": "tests.jobs.no_such_backoff"}},
            "Their own backoff tests.jobs.no_such_backoff cannot be imported",
        ),
    ],
)  # fmt: skip
def test_the_first_reason_is_told(task, row, reason):
    make(task=task, **row)
    (error,) = check_stored_jobs()
    assert reason in error.msg


def test_jobs_with_a_backoff_of_their_own_are_fine():
    make(args=[1], options={"backoff": {"base": 1, "cap": 2}})
    make(args=[1], options={"atomic": True})
    make(args=[1], options=[3])
    assert check_stored_jobs() == []


def test_jobs_of_a_backend_that_is_no_longer_ours_are_an_error(settings):
    settings.TASKS = {
        "default": OURS,
        "other": {"BACKEND": IMMEDIATE},
    }
    make(args=[1], backend="other")
    (error,) = check_stored_jobs()
    assert "TASKS['other'] is a ImmediateBackend, not a PostgresBackend." in error.msg
    assert "Keep the entry in TASKS until these jobs have run." in error.hint


def test_many_tasks_are_a_few_errors():
    insert("generate_series(1, 60) AS n, generate_series(1, n)", task="'shop.tasks.old_' || n", args="'[]'")
    errors = check_stored_jobs()
    assert len(errors) == deploy_checks.TASKS_AT_MOST + 1
    assert errors[0].msg.startswith("60 unfinished jobs of shop.tasks.old_60 in")
    assert errors[-1].msg == (
        f"{sum(range(1, 11))} unfinished jobs of 10 more tasks in the database 'default' cannot run either."
    )


def test_many_kinds_of_calls_are_cut_off_and_that_is_said(monkeypatch):
    monkeypatch.setattr(queries, "KINDS_AT_MOST", 5)
    insert("generate_series(1, 8) AS n", kwargs="jsonb_build_object('a', 1, 'other_' || n, 1)")
    error, warning = check_stored_jobs()
    assert error.msg.startswith("5 unfinished jobs of tests.jobs.add")
    assert (warning.id, warning.is_serious()) == ("pgonly_django.W502", False)
    assert warning.msg.endswith("were looked at: they are of more than 5 kinds.")


def test_the_order_of_keyword_arguments_makes_no_kind():
    insert("generate_series(1, 3)", kwargs="""'{"b": 1, "a": 2}'""")
    insert("generate_series(1, 2)", kwargs="""'{"a": 1, "b": 2}'""")
    (call,) = queries.stored_calls("default").calls
    assert (call.jobs, sorted(call.names)) == (5, ["a", "b"])


def test_a_look_that_takes_too_long_looks_at_some_of_the_jobs(monkeypatch, other):
    """The table is locked by a migration for a moment: the first look gives up."""
    monkeypatch.setattr(queries, "SAMPLE", 2)
    monkeypatch.setattr(queries, "TIMEOUT_SECONDS", 0.2)
    insert("generate_series(1, 5)", task=f"'{GONE}'")
    looked = []

    class Look:
        """As _look(), with the lock gone before the second one."""

        def __call__(self, own, limit):
            if looked:
                other.execute("ROLLBACK")
            looked.append(limit)
            return look(own, limit)

    look = queries._look
    monkeypatch.setattr(queries, "_look", Look())
    other.execute("BEGIN")
    other.execute("LOCK TABLE pgonly_job")
    error, warning = check_stored_jobs()
    assert looked == [None, 2]
    assert error.msg.startswith("2 unfinished jobs of shop.tasks.send_mail")
    assert "a look at all took longer than 0.2 s, so it was at most 2 jobs of each state." in warning.msg


def test_a_table_that_stays_locked_is_a_warning(monkeypatch, other):
    monkeypatch.setattr(queries, "TIMEOUT_SECONDS", 0.2)
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job")
        (warning,) = check_stored_jobs()
    assert warning.id == "pgonly_django.W501"
    assert "canceling statement due to statement timeout" in warning.msg


def test_a_database_that_is_away_is_a_warning(settings, any_database):
    settings.TASKS = {"default": {**OURS, "OPTIONS": {"database": "away"}}}
    with alias("away", HOST="127.0.0.1", PORT="1", OPTIONS={}):
        (warning,) = check_stored_jobs()
    assert (warning.id, warning.is_serious()) == ("pgonly_django.W501", False)
    assert warning.msg.startswith(
        "The stored jobs of the database 'away' were not looked at: connection failed"
    )
    assert "Run this check where the database can be reached, after `migrate`." in warning.hint


def test_a_database_without_our_tables_is_a_warning(settings, any_database):
    settings.TASKS = {"default": {**OURS, "OPTIONS": {"database": "empty"}}}
    with alias("empty", NAME="postgres"):
        (warning,) = check_stored_jobs()
    assert 'relation "' in warning.msg
    assert "does not exist" in warning.msg


def test_a_database_that_is_none_is_left_to_the_other_checks(settings):
    settings.TASKS = {"default": {**OURS, "OPTIONS": {"database": "missing"}}}
    assert check_stored_jobs() == []
    settings.TASKS = {"default": {"BACKEND": "no.such.Backend"}}
    assert check_stored_jobs() == []


def test_the_timeout_is_over_with_the_look(server):
    """It is set for the transaction: behind a pooler others get the connection."""
    queries._look(server, limit=None)
    assert server.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_check_deploy_fails_and_check_does_not():
    make(task=GONE)
    call_command("check")
    with pytest.raises(
        SystemCheckError, match=r"\(pgonly_django\.E501\) 1 unfinished job of shop\.tasks\.send_mail"
    ):
        call_command("check", deploy=True)
