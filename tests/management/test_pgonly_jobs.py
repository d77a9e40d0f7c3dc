"""manage.py pgonly_jobs, as a person and as a program call it."""

from __future__ import annotations

import sys
from datetime import timedelta
from uuid import UUID

import pytest
from django.core.management import call_command
from django.utils import timezone

from pgonly_django.management.commands import pgonly_jobs as changes
from pgonly_django.models import Job, Queue, State, Step
from tests.jobs import redriving
from tests.management.calling import as_json, failed, refused
from tests.queue.rows import fresh, make, make_running

pytestmark = pytest.mark.django_db(transaction=True)


# Changing.


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("retry", State.FAILED, State.READY),
        ("redrive", State.FAILED, State.READY),
        ("cancel", State.READY, State.CANCELLED),
        ("discard", State.READY, State.FAILED),
        ("hold", State.READY, State.HELD),
        ("resume", State.HELD, State.READY),
        ("run-now", State.SCHEDULED, State.READY),
    ],
)
def test_every_verb_changes_the_jobs_in_its_states(jobs, verb, before, after):
    run_at = timezone.now() + timedelta(hours=1) if before == State.SCHEDULED else None
    job = make(state=before, held_by="x" if before == State.HELD else None, run_at=run_at)
    other = make(state=State.SUCCEEDED)
    answer = as_json(jobs, verb, job.pk, other.pk)
    assert (answer["verb"], answer["matched"], answer["changed"]) == (verb, 1, 1)
    assert (fresh(job).state, fresh(other).state) == (after, State.SUCCEEDED)
    if verb == "cancel":
        running = make_running()
        assert jobs("cancel", running.pk) == "1 job was cancelled, or asked to stop.\n"
        assert fresh(running).cancel_requested_at is not None
    if verb in ("hold", "discard"):
        assert fresh(job).errors[-1]["reason"].endswith(" by pgonly_jobs.")
        told = make()
        jobs(verb, told.pk, "--reason", "Wait for Monday")
        assert fresh(told).errors[-1]["reason"] == "Wait for Monday"


def test_redrive_spreads_and_changes_arguments(jobs):
    for number in range(3):
        failed(args=[number])
    flags = ("--error", "ValueError", "--per-minute", 60, "--argument", 'model={"a": 1}')
    assert as_json(jobs, "redrive", *flags) == {
        "verb": "redrive", "matched": 3, "changed": 3, "dry_run": False, "left": 0, "reasons": {}
    }  # fmt: skip
    rows = list(Job.objects.order_by("pk"))
    assert [row.state for row in rows] == [State.READY, State.SCHEDULED, State.SCHEDULED]
    calls = [(row.args, row.kwargs) for row in rows]
    assert calls == [([number], {"model": {"a": 1}}) for number in range(3)]


def test_nothing_to_change_is_no_error(jobs):
    failed(queue="ai")
    assert jobs("cancel", "--queue", "ai") == "0 jobs were cancelled, or asked to stop.\n"


def test_what_redrive_leaves_alone_is_named_with_the_reason(jobs):
    old = redriving.unique.enqueue(1).job
    Job.objects.filter(pk=old.pk).update(state=State.FAILED, finished_at=timezone.now())
    redriving.unique.enqueue(1)
    said = jobs("redrive", old.pk)
    assert (
        said
        == f"0 jobs were redriven.\n1 were left alone:\n{old.pk}  Another job has its unique_key by now.\n"
    )


def test_an_argument_that_no_task_has_changes_nothing(jobs):
    job = failed()
    said, code = refused(jobs, "redrive", job.pk, "--argument", "modle=3")
    assert (code, "did you mean 'model'?" in said) == (1, True)
    assert fresh(job).state == State.FAILED


def test_prune_deletes_finished_jobs_with_what_they_saved(jobs):
    job, waiting = failed(), make()
    Step.objects.create(job=job, name="s", result=1)
    assert jobs("prune", "--all") == "1 job was deleted.\n"
    assert list(Job.objects.all()) == [waiting]
    assert not Step.objects.exists()


def test_queues_are_paused_and_resumed_by_name(jobs, capsys):
    make(queue="ai")
    assert jobs("pause", "ai") == "1 of 1 paused.\n"
    call_command("pgonly_jobs", "pause", "aii")
    assert "No recent job is in the queue 'aii'; did you mean 'ai'?" in capsys.readouterr().err
    assert Queue.objects.get(name="ai").paused_at is not None
    assert as_json(jobs, "pause", "ai") == {"verb": "pause", "queues": ["ai"], "changed": 0}
    assert jobs("resume", "ai") == "1 of 1 resumed.\n"
    assert Queue.objects.get(name="ai").paused_at is None


# Many.


def many(count=changes.ASKS_ABOVE + 1):
    return [make(queue="ai") for _ in range(count)]


def test_without_a_terminal_many_are_not_changed_unless_that_is_said(jobs):
    many()
    said, code = refused(jobs, "cancel", "--queue", "ai")
    assert (said, code) == ("Not done: cancel 11 jobs needs --yes where there is no terminal to ask at.", 3)
    assert Job.objects.waiting().count() == 11
    assert jobs("cancel", "--queue", "ai", "--yes") == "11 jobs were cancelled, or asked to stop.\n"


def test_many_are_changed_if_a_person_says_yes(jobs, terminal, capsys, monkeypatch):
    many()
    for answer in ("", "n", "x"):
        terminal(answer)
        assert refused(jobs, "cancel", "--queue", "ai") == ("Not done.", 3)
        assert "Cancel 11 jobs? [y/N]" in capsys.readouterr().err
    assert Job.objects.waiting().count() == 11
    terminal("Yes")
    jobs("cancel", "--queue", "ai")
    assert not Job.objects.waiting().exists()
    many(), monkeypatch.setattr(sys, "stdin", None)
    assert refused(jobs, "cancel", "--queue", "ai")[1] == 3


def test_a_dry_run_counts_and_changes_nothing(jobs):
    many()
    assert jobs("cancel", "--queue", "ai", "--dry-run") == "11 jobs would be cancelled, or asked to stop.\n"
    assert as_json(jobs, "cancel", "--queue", "ai", "--dry-run") == {
        "verb": "cancel", "matched": 11, "changed": 0, "dry_run": True
    }  # fmt: skip
    assert Job.objects.waiting().count() == 11


def test_many_are_changed_in_batches_and_none_twice(jobs, monkeypatch):
    monkeypatch.setattr(changes, "BATCH", 4)
    rows = many()
    assert as_json(jobs, "hold", "--all", "--yes")["changed"] == 11
    assert {len(fresh(row).errors) for row in rows} == {1}


def test_ctrl_c_between_batches_says_what_was_done(jobs, monkeypatch):
    monkeypatch.setattr(changes, "BATCH", 4)
    many()
    real, calls = changes.CHANGES["hold"].apply, []

    def hold(rows, flags):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(rows, flags)

    monkeypatch.setitem(changes.CHANGES, "hold", changes.CHANGES["hold"]._replace(apply=hold))
    assert refused(jobs, "hold", "--all", "--yes") == ("Interrupted: 8 jobs held before.", 130)


# What is wrong.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--task", "scren"],
            "No recent job has the task 'scren'; did you mean 'tests.jobs.redriving.screen'?",
        ),
        (
            ["--error", "ValuError"],
            "No recent job has the error 'ValuError'; did you mean 'builtins.ValueError'?",
        ),
        (["--queue", "zzz"], "No recent job has the queue 'zzz'."),
    ],
)
@pytest.mark.parametrize("verb", ["list", "redrive"])
def test_a_name_that_no_job_has_is_named_with_the_nearest(jobs, verb, flags, says):
    failed(queue="ai")
    assert refused(jobs, verb, *flags) == (says, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "7"], "'7' is not the id of a job"),
        (["cancel"], "Choose jobs"),
        (["show", str(UUID(int=7))], f"There is no job {UUID(int=7)}"),
        (["list", "--state", "fialed"], "there is no state 'fialed'; did you mean 'failed'?"),
        (["list", "--since", "soon"], "'soon' is neither a time"),
        (["list", "--since", "999999999999d"], "longer ago than any job"),
        (["list", "--limit", "-1"], "must be a whole number"),
        (["redrive", "--all", "--argument", "model"], "'model' is not name=value"),
        (["list", "--database", "defualt"], "'defualt' is not in DATABASES; did you mean 'default'?"),
        (["retrry", "--all"], "invalid choice: 'retrry'"),
        ([], "VERB"),
    ],
)
def test_wrong_flags_are_named(jobs, arguments, says):
    said, _ = refused(jobs, *arguments)
    assert says in said
