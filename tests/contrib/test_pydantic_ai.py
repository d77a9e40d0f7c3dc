"""JobSteps: agents of Pydantic AI in jobs. Their models are functions, so nothing is called over a network."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed: pip install pydantic-ai-slim")

from asgiref.sync import async_to_sync
from pydantic_ai.models.function import FunctionModel

from pgonly_django import send_event
from pgonly_django.contrib.pydantic_ai import AgentOutsideJobError, JobSteps
from pgonly_django.exceptions import OptionError
from pgonly_django.models import Event, Job, Step, Wait
from pgonly_django.testing import assert_resumable, assert_waiting_for, fake_limits
from tests.contrib import agent_jobs as jobs
from tests.docs.assumed import project_with_papers


@pytest.fixture(autouse=True)
def _nothing_is_paid_yet():
    jobs.paid.clear()
    jobs.noted.clear()


@pytest.fixture
def ran(run_jobs):
    """Enqueue a job, run what is ready, and return its row."""

    def run(task, *args):
        result = task.enqueue(*args)
        run_jobs()
        return Job.objects.get(pk=result.id)

    return run


def names():
    """Of the steps, without their fingerprints, in the order in which they were stored."""
    return [" ".join(name.split()[:2]) for name in Step.objects.order_by("pk").values_list("name", flat=True)]


ALL = ["add 1 2", "add 3 4", "add 3 7", "model 1", "model 3", "model 5"]


def test_each_request_and_each_call_of_a_tool_is_a_step(ran):
    job = ran(jobs.adds)
    assert (job.state, job.result) == ("succeeded", "The sum is 10."), job.errors
    assert names() == ["model adder", "tool add", "tool add", "model adder", "tool add", "model adder"]
    assert sorted(jobs.paid) == ALL


def test_a_later_run_calls_nothing_again(ran):
    job = ran(jobs.adds_after_an_error)
    assert (job.attempt, job.result) == (2, "The sum is 10.")
    assert sorted(jobs.paid) == ALL
    assert job.log == []


@pytest.mark.slow
@pytest.mark.parametrize("job", [jobs.adds, jobs.adds_in_a_thread], ids=["async", "sync"])
def test_an_agent_that_is_killed_at_any_call_pays_for_each_call_once(db, job):
    report = assert_resumable(job, setup=jobs.paid.clear)
    assert sum(report.calls.values()) == len(ALL)
    assert len(report.killed_at) >= 2 * len(ALL)


def test_a_request_that_a_deploy_has_changed_is_made_again_and_the_log_says_so(ran):
    job = ran(jobs.asks_otherwise_after_a_deploy)
    assert job.result == "The sum is 10."
    # The tools are called with the same arguments, so their results still hold.
    assert sorted(jobs.paid) == sorted([*ALL, "model 1", "model 3", "model 5"])
    said = [line["text"] for line in job.log]
    assert len(said) == 3
    assert said[0].startswith("model adder ")
    assert "is made again" in said[0]


def test_the_same_request_twice_in_a_job_is_two_steps(ran):
    job = ran(jobs.asks_the_same_twice)
    assert job.result == ["The sum is 10."] * 2
    assert sorted(jobs.paid) == sorted([*ALL, *ALL])
    assert Step.objects.filter(name__endswith=" 2").count() == 6


def test_a_request_that_fails_leaves_its_name_to_the_next_one(ran):
    job = ran(jobs.asks_again_after_an_error)
    assert (job.attempt, job.result) == (2, "yes")
    assert jobs.paid == ["model", "model"]


def test_a_tool_that_raises_an_error_is_called_again_by_the_next_attempt(ran):
    job = ran(jobs.calls_tool, "breaks_once")
    assert job.result == "success: mended"
    assert jobs.paid == ["model", "breaks_once", "breaks_once", "model"]
    assert job.errors[0]["exception"] == "builtins.ConnectionError"


@pytest.mark.parametrize(
    ("tool", "output", "calls"),
    [
        ("asks_again", "success: well", ["model", "asks_again", "model", "asks_again", "model"]),
        ("gives_up", "failed: There is no such paper.", ["model", "gives_up", "model"]),
        ("returns_a_picture", "success: a picture", ["model", "returns_a_picture", "model"]),
    ],
)
def test_what_a_tool_answers_the_model_is_stored_whatever_it_is(ran, tool, output, calls):
    job = ran(jobs.calls_tool, tool)
    assert (job.attempt, job.result) == (2, output)
    assert jobs.paid == calls


def test_a_tool_may_return_what_postgresql_does_not_store(ran):
    job = ran(jobs.calls_tool, "returns_nul")
    assert job.result == "success: {'text': 'a\\\\x00b', 'number': None}"


def test_the_hooks_of_other_capabilities_are_called_in_each_run_and_change_no_request(ran):
    job = ran(jobs.is_observed)
    assert job.result == "The sum is 10."
    assert len(jobs.noted) == 6
    assert sorted(jobs.paid) == ALL


def answered(*answers):
    """Answers the open questions, in the order of what is asked, and returns them."""
    waits = list(Wait.objects.order_by("question"))
    for wait, answer in zip(waits, answers, strict=True):
        assert send_event(wait.key, answer)
    return [wait.question for wait in waits]


def test_tools_that_need_approval_ask_a_person_at_once_and_the_job_waits(ran, run_jobs):
    job = ran(jobs.tidies_up)
    assert (job.state, jobs.paid) == ("scheduled", ["model"])
    assert re.fullmatch(rf"approve {job.pk} look \w{{12}}", Wait.objects.get(question__contains="look").key)
    assert {tuple(wait.choices) for wait in Wait.objects.all()} == {("approve", "deny")}
    assert answered("approve", "deny", "approve") == [
        'May the agent call delete(name="a", token="••••••")?',
        'May the agent call delete(name="b")?',
        "May the agent call look()?",
    ]
    run_jobs()
    job.refresh_from_db()
    assert job.result == "denied The tool call was denied., success deleted a, success seen", job.errors
    assert sorted(jobs.paid) == ["delete a", "look", "model", "model"]
    assert job.attempt == 1
    assert not Wait.objects.exists()


def test_a_person_is_asked_once_and_answers_in_any_order(ran, run_jobs):
    job = ran(jobs.tidies_up)
    keys = list(Wait.objects.order_by("-question").values_list("key", flat=True))
    for number, key in enumerate(keys, 1):
        assert set(Wait.objects.values_list("key", flat=True)) == set(keys[number - 1 :])
        send_event(key, "approve")
        run_jobs()
    job.refresh_from_db()
    assert job.result == "success deleted a, success deleted b, success seen"
    assert sorted(jobs.paid) == ["delete a", "delete b", "look", "model", "model"]
    assert Event.objects.count() == 3


@pytest.mark.slow
def test_an_agent_that_is_killed_at_any_place_asks_once_and_pays_once(db):
    report = assert_resumable(
        jobs.tidies_up, setup=jobs.paid.clear, events=lambda _key: "approve", max_kills=12
    )
    # A tool that raises ApprovalRequired is called in each run until a person has answered.
    assert {count for step, count in report.calls.items() if "look" not in step} == {1}
    assert any("left its run to wait" in place for place in report.places)


def test_what_a_model_streams_is_emitted_while_it_comes(ran):
    job = ran(jobs.says_aloud)
    assert job.result == "Found it."
    assert jobs.says_aloud.get_result(str(job.pk)).output().text == "I look.\nFound it."


@pytest.mark.slow
def test_a_killed_agent_emits_its_text_once(db):
    assert_resumable(jobs.says_aloud, setup=jobs.paid.clear)


def test_a_handler_of_events_gets_the_stream_when_the_answer_is_complete(ran):
    job = ran(jobs.says_aloud_to_a_handler)
    assert job.result == ["Found it.", 3]
    assert jobs.says_aloud_to_a_handler.get_result(str(job.pk)).output().text == "I look.\nFound it."


@pytest.mark.parametrize(
    ("which", "reserved", "spent"),
    [
        ("by the library", "0", "0.000156"),  # 0.15 and 0.60 dollars for a million tokens
        ("of our own", "1.5", "1"),
        ("not known", "0.5", "0.5"),
    ],
)
def test_tokens_and_cost_go_to_the_budget_of_the_job(ran, settings, which, reserved, spent):
    settings.PGONLY = {**settings.PGONLY, "BUDGETS": {"agents": {"usd": 5}}}
    with fake_limits() as limits:
        job = ran(jobs.pays, which)
    assert job.result == "yes", job.errors
    (use,) = limits.reservations
    assert float(use.reserved) == float(reserved)
    assert (float(use.spent), use.tokens_in, use.tokens_out) == (float(spent), 1000, 10)


def test_a_job_whose_budget_is_used_up_is_held_before_the_request(ran, settings):
    settings.PGONLY = {**settings.PGONLY, "BUDGETS": {"agents": {"usd": 5}}}
    with fake_limits() as limits:
        limits.use_up("agents")
        assert ran(jobs.pays, "of our own").state == "held"
    assert jobs.paid == []


def test_outside_of_a_job_an_agent_raises_before_it_calls_anything():
    with pytest.raises(AgentOutsideJobError, match=r"was run outside of a job. Run it in a task, or"):
        async_to_sync(jobs.adder.run)("Add.")
    assert jobs.paid == []


def test_in_a_job_without_a_context_an_agent_says_what_the_task_needs(ran):
    job = ran(jobs.adds_without_a_context)
    assert "Give the task takes_context=True, or JobSteps" in job.errors[0]["message"]
    assert jobs.paid == []


def test_in_a_job_of_one_transaction_an_agent_calls_nothing(ran):
    job = ran(jobs.adds_in_a_transaction)
    assert job.errors[0]["exception"].endswith("AtomicStepError")
    assert jobs.paid == []


def test_where_it_is_told_to_an_agent_runs_outside_of_jobs_without_steps():
    result = async_to_sync(jobs.adder.run)("Add.", capabilities=[JobSteps(outside_jobs="run")])
    assert result.output == "The sum is 10."
    assert sorted(jobs.paid) == ALL


def test_another_word_for_outside_of_jobs_is_refused():
    with pytest.raises(OptionError, match='it must be "raise" or "run"'):
        JobSteps(outside_jobs="ignore")


def test_the_agent_of_the_docs_asks_before_it_deletes(ran, run_jobs, settings, monkeypatch):
    from tests.contrib import documented

    settings.PGONLY = {**settings.PGONLY, "BUDGETS": {"project:*": {"usd": 5}}}
    project = project_with_papers(2)

    def tidies(messages, _info):
        returned = jobs.returns_in(messages)
        wish = [("find_papers", {"words": "paper"}), ("delete_paper", {"title": "Paper 2"})]
        return jobs.calls(wish[len(returned)]) if len(returned) < 2 else jobs.say(returned[0].content[0])

    monkeypatch.setattr(documented.agent, "model", FunctionModel(tidies, model_name="clerk"))
    with fake_limits():
        job = ran(documented.tidy_up, project.pk, "Keep the first paper.")
        assert_waiting_for(Wait.objects.get().key)
        assert answered("approve") == ['May the agent call delete_paper(title="Paper 2")?']
        run_jobs()
    job.refresh_from_db()
    assert job.result == "Paper 1", job.errors
    assert project.papers.count() == 1
