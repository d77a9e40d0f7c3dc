"""drain(), time_travel(), assert_waiting_for() and assert_resumable() with jobs that wait."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync

from pgonly_django import RESULT, asend_event, send_event
from pgonly_django.context import leaving
from pgonly_django.models import Event, Job, State, Wait
from pgonly_django.testing import (
    NotResumableError,
    NotTestableError,
    adrain,
    assert_resumable,
    assert_waiting_for,
    drain,
    time_travel,
)
from tests.jobs import parallel_waits
from tests.jobs.chained import keep
from tests.testing import waiting_jobs
from tests.testing.conftest import both

LEFT_AND_RETURNED = ("left its run to wait", "returned")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def values():
    return [result.return_value for result in drain() if result.is_finished]


@both
def test_a_drain_runs_through_a_wait_whose_event_is_sent(where):
    result = waiting_jobs.ask.enqueue(7)
    assert values() == []
    (wait,) = assert_waiting_for("approve:7")
    assert (str(wait.job.pk), wait.question, wait.choices) == (result.id, "May it?", ["yes", "no"])
    assert send_event("approve:7", {"by": 3})
    assert_waiting_for("approve:7", count=0)
    assert values() == [{"by": 3}]
    assert not Wait.objects.exists()
    assert result.job.attempt == 1


def test_a_job_that_waits_is_followed_once(db):
    waiting_jobs.ask.using(then=keep.bind(RESULT)).enqueue(7)
    assert values() == []
    send_event("approve:7", "yes")
    assert values() == ["yes", [["yes"], {}]]
    assert Job.objects.count() == 2


def test_an_event_that_was_sent_before_is_taken_at_once(db):
    send_event("approve:7", 1)
    waiting_jobs.ask.enqueue(7)
    assert values() == [1]


def test_a_job_that_sends_the_event_wakes_the_one_that_waits(db):
    waiting_jobs.ask.enqueue(7)
    waiting_jobs.answer.enqueue(7, "yes")
    assert sorted(map(str, values())) == ["True", "yes"]


def test_time_travel_ends_a_sleep_and_a_timeout(db):
    waiting_jobs.rest.enqueue()
    waiting_jobs.ask.enqueue(7, timeout=3600)
    assert values() == []
    with time_travel(30 * MINUTE):
        assert values() == []
        assert_waiting_for("approve:7")
    with time_travel(61 * MINUTE):
        assert values() == ["nobody answered"]
    with time_travel(DAY + MINUTE):
        assert values() == ["rested"]


def test_a_wait_that_begins_on_a_journey_ends_after_its_own_time(db):
    with time_travel(DAY):
        waiting_jobs.rest.enqueue()
        assert values() == []
        with time_travel(DAY - MINUTE):
            assert values() == []
    with time_travel(2 * DAY + MINUTE):
        assert values() == ["rested"]


def test_it_does_so_in_a_coroutine(db):
    async def ask():
        await waiting_jobs.aask.aenqueue(7)
        await adrain()
        await asend_event("approve:7", "yes")
        (result,) = await adrain()
        return result.return_value

    assert async_to_sync(ask)() == "yes"


def test_a_wait_that_is_not_there_is_said_with_those_that_are(db):
    with pytest.raises(AssertionError, match=r"'approve:7' is waited for never\. No job waits\."):
        assert_waiting_for("approve:7")
    result = waiting_jobs.ask.enqueue(8)
    drain()
    with pytest.raises(AssertionError) as caught:
        assert_waiting_for("approve:7")
    assert f"tests.testing.waiting_jobs.ask {result.id}: event approve:8" in str(caught.value)
    with pytest.raises(AssertionError, match="waited for once, not twice"):
        assert_waiting_for("approve:8", count=2)
    Job.objects.all().hold()
    assert_waiting_for("approve:8")
    Job.objects.all().cancel()
    assert_waiting_for("approve:8", count=0)


# assert_resumable().


def test_a_job_is_killed_around_its_waits(db):
    report = assert_resumable(waiting_jobs.ask_and_pay, 7, events={"approve:7": "yes"})
    text = "\n".join(report.places)
    assert text.count("INSERT INTO pgonly_wait was committed") >= 3
    assert text.count("when its function had left its run to wait") == 3
    assert report.calls == {"step 'pay'": 1, "step 'pay again'": 1}
    assert not Event.objects.exists()
    assert not Wait.objects.exists()
    assert not Job.objects.exists()


def test_a_function_of_the_key_may_answer(db):
    asked = []
    assert_resumable(waiting_jobs.ask, 7, events=lambda key: asked.append(key) or "yes", kill_at=1)
    assert set(asked) == {"approve:7"}


def test_a_wait_without_an_end_is_said(db):
    with pytest.raises(NotTestableError, match=r"waits for the event 'approve:7'.*events=\{'approve:7'"):
        assert_resumable(waiting_jobs.ask, 7)


def test_a_job_that_repeats_work_when_it_wakes_is_found(db):
    with pytest.raises(NotResumableError, match="3 new rows instead of 2"):
        assert_resumable(waiting_jobs.writes_in_each_run)


@pytest.mark.slow
def test_a_job_of_a_sleep_an_event_a_gather_and_a_next_one_is_killed_at_each(db):
    job = waiting_jobs.ask_and_gather.using(then=waiting_jobs.publish.bind(RESULT))
    report = assert_resumable(job, [1, 2], events={"begin": None}, paid=["tests.testing.waiting_jobs.pay"])
    text = "\n".join(report.places)
    assert text.count("when its function had left its run to wait") == 3
    assert "INSERT INTO pgonly_batch was committed" in text
    assert report.calls == {"tests.testing.waiting_jobs.pay()": 2}
    assert report.not_compared == ()
    assert len(report.killed_at) == len(report.places)
    assert not Job.objects.exists()


def test_a_gathered_job_that_does_not_end_is_said(db):
    with pytest.raises(NotTestableError, match="ask waits for the event 'approve:1'"):
        assert_resumable(waiting_jobs.gathers_what_never_ends)


def test_a_gathered_job_that_is_held_is_said(db):
    with pytest.raises(NotTestableError, match="gathers_what_holds_itself gathers, is held"):
        assert_resumable(waiting_jobs.gathers_what_holds_itself)


def test_a_held_job_is_no_parked_one(db):
    result = waiting_jobs.ask.enqueue(7)
    result.hold()
    drain()
    assert result.job.state == State.HELD
    assert_waiting_for("approve:7", count=0)


def test_a_job_that_keeps_its_key_ends_before_more_urgent_ones_begin(db):
    waiting_jobs.ask_alone.enqueue(1, 7)
    assert values() == []
    waiting_jobs.use.enqueue(1)
    waiting_jobs.use.enqueue(2)
    assert values() == ["used"]
    assert Job.objects.get(state=State.READY).args == [1]
    send_event("approve:7", "yes")
    assert values() == ["yes", "used"]


def test_the_places_of_a_job_that_waits_in_branches_do_not_depend_on_its_looks(db, monkeypatch):
    monkeypatch.setattr(leaving, "IDLE_PAUSES", 4)  # it looks some more times
    report = assert_resumable(parallel_waits.gather_all, ["a", "b"], events={"a": 1, "b": 2})
    begun = "right after INSERT INTO pgonly_wait was committed"
    ends = [f"right before its end was written, when its function had {how}" for how in LEFT_AND_RETURNED]
    answered = [f"right after the answer to 'event {key}' was saved" for key in "ab"]
    assert report.places == (begun, begun, ends[0], *answered, ends[1])
