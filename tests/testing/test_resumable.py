from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.db import connection
from django.test import override_settings

from pgonly_django import task
from pgonly_django.compat import BaseTaskBackend
from pgonly_django.database.connect import connection_params
from pgonly_django.models import Job
from pgonly_django.testing import NotResumableError, assert_resumable
from pgonly_django.testing.resumable import databases
from pgonly_django.testing.resumable.errors import NotTestableError
from tests.snippets import snippet
from tests.testing import resumable_jobs as jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.process
COPIES = "SELECT datname FROM pg_database WHERE datname LIKE %s"


def copies_of_this_database():
    with connection.cursor() as cursor:
        cursor.execute(COPIES, [databases._prefix("default").replace("_", r"\_") + "%"])
        return [name for (name,) in cursor.fetchall()]


@pytest.fixture
def nothing_left(transactional_db):
    yield
    assert copies_of_this_database() == []
    assert not Job.objects.exists()


def is_alive(pid):
    """Not a zombie, which whoever adopted it has not waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def why_not(job, *args, **options):
    with pytest.raises(NotResumableError) as found:
        assert_resumable(job, *args, **options)
    return str(found.value)


def why_not_testable(job, *args, **options):
    with pytest.raises(NotTestableError) as found:
        assert_resumable(job, *args, **options)
    return str(found.value)


@task(takes_context=True)
def of_this_test_module(context):
    return context.step("pay", int, 1)


def test_a_job_that_resumes_passes_and_the_report_says_where_it_was_killed(nothing_left):
    caches["answers"].set(
        "key", 1
    )  # leaves a connection behind, which would keep the database from being copied
    report = assert_resumable(jobs.resumes, 2)
    assert report.saves == (
        "right after step 'pay 0' was saved",
        "right before position 1 of the loop 'items' was saved",
        "right after position 1 of the loop 'items' was saved",
        "right after step 'pay 1' was saved",
        "right before position 2 of the loop 'items' was saved",
        "right after position 2 of the loop 'items' was saved",
        "right before its end was written, when its function had returned",
    )
    assert report.killed_at == (1, 2, 3, 4, 5, 6, 7)
    assert report.calls == {"step 'pay 0'": 1, "step 'pay 1'": 1}
    assert report.not_compared == ()
    assert not Group.objects.exists()


def test_the_example_of_the_docs_passes(nothing_left, monkeypatch):
    monkeypatch.setitem(sys.modules, "shop.tasks", SimpleNamespace(import_catalogue=of_this_test_module))
    names = {}
    exec(snippet("how-to/testing.md", "def test_an_import_survives_kills()").replace(", 3)", ")"), names)
    names["test_an_import_survives_kills"]()


def test_an_async_job_that_resumes_passes(nothing_left):
    assert assert_resumable(jobs.aresumes, 1).killed_at == (1, 2, 3, 4)


def test_a_job_that_writes_twice_is_found(nothing_left):
    said = why_not(jobs.writes_twice, 2)
    assert "killed right before position 1 of the loop 'items' was saved (save 1 of 5), and resumed" in said
    assert "auth.User: 3 new rows instead of 2. Too many: {" in said
    assert "'last_name': 'number 0'" in said


def test_a_job_that_pays_twice_is_found(nothing_left):
    said = why_not(jobs.pays_twice, 2, kill_at=2)
    assert "right after step 'pay 1' was saved, in a transaction that was still open (save 2 of 5)" in said
    assert "* step 'pay 0' was called twice instead of once: it was paid twice." in said
    assert "* step 'pay 1' was called twice instead of once: it was paid twice." in said


def test_a_step_with_another_name_in_the_second_run_was_paid_twice(nothing_left):
    said = why_not(jobs.pays_twice_in_its_second_run)
    assert "step 'pay in attempt 2' was called once instead of never: it was paid twice." in said


def test_a_payment_outside_of_a_step_is_counted_where_it_is_named(nothing_left):
    report = assert_resumable(jobs.pays_outside_of_a_step)
    assert report.calls == {}
    said = why_not(jobs.pays_outside_of_a_step, paid=[jobs.pay], kill_at=1)
    assert "tests.testing.resumable_jobs.pay() was called twice instead of once: it was paid twice." in said


def test_a_sum_that_is_only_in_memory_is_found(nothing_left):
    said = why_not(jobs.forgets_its_sum, 3, kill_at=[2, 4])
    assert "right after position 2" in said
    assert "Its result is 2 instead of 3." in said


def test_a_step_that_is_never_called_is_found(nothing_left):
    assert "step 'pay' was called never instead of once." in why_not(jobs.skips_a_step, kill_at=2)


def test_a_job_is_also_killed_between_its_return_and_its_end(nothing_left):
    assert "when its function had returned (save 1 of 1)" in why_not(jobs.writes_at_its_end)
    assert assert_resumable(jobs.writes_with_its_end).saves == ()


def test_a_job_that_enqueues_twice_is_found(nothing_left):
    said = why_not(jobs.enqueues_twice, kill_at=1)
    assert "enqueued jobs: 2 new rows instead of 1." in said
    assert assert_resumable(jobs.enqueues_twice, kill_at=1, ignore=["jobs"]).killed_at == (1,)


def test_steps_with_random_names_are_found_without_a_kill(nothing_left):
    assert "other names in each run (step 'pay " in why_not(jobs.in_its_own_names)


def test_what_is_kept_outside_of_the_database_is_found_without_a_kill(nothing_left, tmp_path):
    said = why_not_testable(jobs.keeps_what_it_paid_for_in_a_file, str(tmp_path / "answer"))
    assert "Two undisturbed runs of " in said
    assert "step 'pay' was called never instead of once. Something outside of the database was kept" in said


def test_what_differs_without_a_kill_is_not_compared(nothing_left):
    User.objects.create(username="u", last_name="prepared")
    report = assert_resumable(jobs.unsteady, kill_at=[1, 3, 4])
    expected = ("auth.User.email", "auth.User.last_login", "auth.User.username", "result['at']")
    assert set(expected) <= set(report.not_compared) <= {*expected, "auth.User.date_joined"}


def test_a_prepared_row_that_is_changed_twice_is_found(nothing_left):
    user = User.objects.create(username="u", last_name="prepared")
    said = why_not(jobs.changes_a_prepared_row, kill_at=1)
    assert f"auth.User {user.pk}: first_name is '++' instead of '+'." in said
    assert_resumable(jobs.changes_a_prepared_row, kill_at=1, ignore=["auth.User.first_name"])


def test_a_missing_row_of_a_many_to_many_table_is_found(nothing_left):
    User.objects.create(username="u", last_name="prepared")
    said = why_not(jobs.adds_a_group_in_its_first_run_only, kill_at=2, ignore=[Group])
    assert "auth.User_groups: 0 new rows instead of 1." in said
    assert "auth.Group:" not in said


def test_state_takes_the_place_of_the_rows(nothing_left):
    User.objects.create(username="u", last_name="prepared")
    seen = []

    def state():
        seen.append(jobs.only_test_user().first_name)
        return seen[-1]

    said = why_not(jobs.changes_a_prepared_row, kill_at=1, state=state)
    assert said.endswith("* state() is '++' instead of '+'.")
    assert seen == ["+", "+", "++"]
    assert jobs.only_test_user().first_name == ""
    assert_resumable(jobs.changes_a_prepared_row, kill_at=1, state=Group.objects.count)


def test_waits_between_runs_are_skipped(nothing_left):
    report = assert_resumable(jobs.waits_and_retries, kill_at=[2, 4])
    assert report.calls == {"step 'first'": 1}


def test_a_call_that_is_under_way_at_the_kill_may_be_repeated(nothing_left):
    report = assert_resumable(jobs.pays_within_a_step)
    assert report.saves[0] == "right after step 'inner' was saved"
    assert report.calls == {"step 'outer'": 1, "step 'inner'": 1}


def test_a_job_that_prints_and_forks_is_no_matter_and_its_processes_end_with_it(nothing_left, tmp_path):
    file = tmp_path / "processes"
    report = assert_resumable(jobs.prints_forks_and_leaves_others_behind, str(file))
    assert report.killed_at == (1, 2)
    started = [int(pid) for pid in file.read_text().split()]
    assert len(started) == 2 * (2 + 2 * 2)
    wait_for(lambda: not any(map(is_alive, started)))


def test_what_a_killed_run_held_does_not_delay_the_next(nothing_left, settings):
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {"one at a time": {"concurrent": 1}}}
    report = assert_resumable(jobs.holds_what_others_wait_for, timeout=20)
    assert report.calls == {"step 'pay'": 1, "step 'compute'": 1}


def test_calls_side_by_side_may_be_repeated_where_they_were_under_way(nothing_left):
    assert assert_resumable(jobs.pays_side_by_side, 3, kill_at=1).calls == dict.fromkeys(
        ["step 'pay 0'", "step 'pay 1'", "step 'pay 2'"], 1
    )


def test_a_run_ends_when_the_test_is_interrupted(nothing_left, tmp_path, settings):
    settings.NOTE_PIDS_IN = str(tmp_path / "pids")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            assert_resumable(jobs.never_ends, setup=jobs.interrupt_the_test)
    finally:
        signal.signal(signal.SIGINT, before)
    started = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: not any(map(is_alive, started)))


def test_a_run_that_never_ends_is_ended_and_its_place_is_shown(nothing_left):
    said = why_not_testable(jobs.never_ends, timeout=1.5)
    assert "never_ends, undisturbed, did not end within 1.5 s (timeout)." in said
    assert "going on" in said
    assert 'resumable_jobs.py", line' in said


def test_a_resumed_run_that_never_ends_is_found(nothing_left):
    said = why_not(jobs.never_ends_when_it_resumes, timeout=5, kill_at=2)
    assert 'right after the checkpoint "begun" was saved (save 2 of 3), and resumed.' in said
    assert "The resumed run did not end within 5 s (timeout)." in said


def test_a_job_that_fails_without_a_kill_is_shown_with_its_traceback(nothing_left):
    said = why_not_testable(jobs.fails.using(max_attempts=1))
    assert "undisturbed, ended as failed. " in said
    assert "ValueError: no such paper" in said


def test_a_task_may_stand_in_the_test_module(nothing_left):
    assert assert_resumable(of_this_test_module).calls == {"step 'pay'": 1}


def test_where_the_project_has_threads_each_run_is_a_process_of_its_own(nothing_left):
    from tests.testing import (
        starts_a_thread,
    )  # the child imports this module for another test, and forks then

    assert assert_resumable(starts_a_thread.resumes, kill_at=1).killed_at == (1,)


def test_settings_of_the_test_and_setup_reach_the_job(nothing_left):
    said = []
    with override_settings(SCREENING_DELAY_SECONDS=0.25):
        options = {"kill_at": 1, "setup": jobs.fake_pay}
        assert_resumable(jobs.tells_settings, state=lambda: said.append(Job.objects.get().result), **options)
    assert said == [[0.25, "EmailBackend", 77]] * 3


def test_in_the_transaction_of_a_test_it_says_what_to_use(db):
    assert "django_db(transaction=True)" in why_not_testable(jobs.resumes, 1)


def test_another_backend_is_refused(settings, transactional_db):
    tasks = BaseTaskBackend.__module__.partition(".backends")[0]
    settings.TASKS = {"default": {"BACKEND": f"{tasks}.backends.dummy.DummyBackend"}}
    assert "go to DummyBackend here" in why_not_testable(jobs.resumes, 1)


def test_another_connection_to_the_test_database_is_named(nothing_left):
    params = connection_params("default", application_name="a thread of the test")
    with psycopg.connect(**params):
        said = why_not_testable(jobs.resumes, 1)
    assert "cannot be copied while others are connected to it: a thread of the test, process " in said


def test_copies_that_a_killed_test_has_left_are_dropped(nothing_left):
    name = databases._prefix("default") + "_99"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    assert copies_of_this_database() == [name]
    assert_resumable(of_this_test_module, kill_at=1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"ignore": ["auth.Usr"]}, ValueError, "ignore takes models"),
        ({"ignore": ["auth.User.nme"]}, ValueError, "no field named 'nme'"),
        ({"kill_at": "steps"}, ValueError, "kill_at must be"),
        ({"kill_at": [0]}, ValueError, "kill_at must be"),
        ({"kill_at": 9}, NotTestableError, "kill_at names save 9, and the job has 2"),
        ({"max_kills": 0}, ValueError, "max_kills must be 1 or more"),
        ({"timeout": 0}, ValueError, "timeout must be a number of seconds over 0"),
        ({"setup": lambda: None}, ValueError, "Move it to the top of its module"),
        ({"paid": ["tests.nowhere.pay"]}, ValueError, "there is no 'tests.nowhere.pay'"),
        ({"state": 3}, TypeError, "state must be a function"),
        ({"paid": "tests.jobs.pay"}, TypeError, r"paid must be a list, such as \['tests.jobs.pay'\]"),
        ({"ignore": Job}, TypeError, "ignore must be a list"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_do(options, error, said):
    with pytest.raises(error, match=said):
        assert_resumable(of_this_test_module, **options)


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_an_async_test_has_left_open_keeps_no_database_from_being_copied():
    asyncio.run(sync_to_async(Group.objects.count)())
    assert_resumable(of_this_test_module, kill_at=1)


def test_a_function_is_no_task(transactional_db):
    with pytest.raises(TypeError, match="needs a task"):
        assert_resumable(jobs.pay, 1)
