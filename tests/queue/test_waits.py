"""The statements of waits and events. Whether an order of them loses an event: see tests/interleaving/."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg import IsolationLevel

from pgonly_django import asend_event, asend_events, send_event, send_events
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.on_django import PREPARE_THRESHOLD
from pgonly_django.exceptions import LeaseLost, ManualCommitError, NotStorableError, StepNameError
from pgonly_django.models import Event, Job, State, Step, Wait
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import waits
from pgonly_django.queue.waits import Delivered, WaitLook, deliver
from tests.counting import counted_calls
from tests.queue.rows import (
    DAY,
    HOUR,
    ago,
    fresh,
    heard,
    make,
    make_running,
    wait_until_blocked,
)

PARKED = {
    "outcome": Outcome.WAITING,
    "state": State.SCHEDULED,
    "delay_seconds": 3600.0,
    "costs_attempt": False,
}


def for_event(key="k", timeout=None):
    return waits.for_event(key, timeout, (), "", keeps_key=False)


def begin(job, wait):
    waits.begin("default", str(job.pk), job.lease_epoch, wait)


def of_look(job, wait):
    names = [wait.name]
    return {
        "id": str(job.pk),
        "lease_epoch": job.lease_epoch,
        "name": wait.name,
        "names": names,
        "own": names,
    }


def look(job, wait):
    return waits.look("default", *of_look(job, wait).values())


def make_waiting(key="k", **facts):
    """A job that has left its run to wait for this event."""
    job = make(**{"state": State.SCHEDULED, "run_at": ago(-DAY), "lease_epoch": 1, **facts})
    Wait.objects.create(job=job, name=f"event {key}", key=key, lease_epoch=1)
    return job


def states(*jobs):
    return [fresh(job).state for job in jobs]


# The job's side.


def test_a_wait_of_a_lost_run_is_not_begun(transactional_db):
    job = make_running(lease_epoch=2)
    job.lease_epoch = 1
    with pytest.raises(LeaseLost):
        begin(job, for_event())
    assert not Wait.objects.exists()


def test_a_later_run_keeps_the_deadline_and_asks_the_new_question(transactional_db):
    job = make_running(concurrency_key="a", slots=1)
    begin(job, for_event(timeout=60))
    first = Wait.objects.get()
    job.lease_epoch = 2
    job.save()
    begin(job, waits.for_event("k", 7200, ["yes", "no"], "Is it?", keeps_key=True))
    second = Wait.objects.get()
    assert (second.until, second.began_at, second.lease_epoch) == (first.until, first.began_at, 2)
    assert (second.choices, second.question, second.kept_key) == (["yes", "no"], "Is it?", "a")


def test_what_has_not_come_is_waited_for_until_the_deadline(transactional_db):
    job = make_running()
    begin(job, for_event())
    assert look(job, for_event()) == WaitLook(None, None, is_new=False)
    begin(job, limited := for_event("other", timeout=60))
    answer, seconds, _is_new = look(job, limited)
    assert (answer, 50 < seconds <= 60) == (None, True)
    assert not Step.objects.exists()


@pytest.mark.parametrize("payload", [None, 7, {"a": ["ä"]}, False])
def test_an_event_is_stored_as_a_step_and_looking_again_gives_the_same(transactional_db, payload):
    """As after the answer to the look was lost."""
    job = make_running()
    send_event("k", payload)
    begin(job, wait := for_event())
    for _ in range(2):
        assert waits.payload_in(look(job, wait).answer, "k") == payload
    step = Step.objects.get()
    assert (step.name, step.result, step.started_at <= step.finished_at) == (
        "event k",
        {"event": payload},
        True,
    )
    assert not Wait.objects.exists()


def test_what_a_job_finds_is_the_same_after_its_statements_were_prepared(transactional_db):
    job = make_running()
    for number in range(3 * PREPARE_THRESHOLD):
        begin(job, wait := for_event(f"k {number}", timeout=60))
        answer, seconds, is_new = look(job, wait)
        assert (answer, 50 < seconds <= 60, is_new) == (None, True, False)
        send_event(f"k {number}", [number])
        for is_new in (True, False):
            found = look(job, wait)
            assert (waits.payload_in(found.answer, ""), found.is_new) == ([number], is_new)


def test_a_look_beside_another_one_that_stores_the_answer_gets_it_too(other, beside):
    """Two threads of the job wait for the same event."""
    job = make_running()
    begin(job, wait := for_event())
    send_event("k", 7)
    place = of_look(job, wait)
    with other.transaction():
        assert other.execute(waits.LOOK.sql, place).fetchone()[::2] == ('{"event": 7}', "new")
        second = beside(look, job, wait)
        with connect("default", application_name="pgonly tests, looking") as looking:
            wait_until_blocked(looking)
    assert second.result(30) == WaitLook('{"event": 7}', None, is_new=False)
    assert (Step.objects.count(), Wait.objects.count()) == (1, 0)


def test_a_timeout_is_an_answer_that_a_late_event_does_not_change(transactional_db):
    job = make_running()
    begin(job, wait := for_event(timeout=0))
    assert look(job, wait).answer == '{"timed_out": true}'
    assert send_event("k")
    begin(job, wait)
    assert Step.objects.get().result == {"timed_out": True}


def test_an_event_that_came_in_time_counts_though_the_job_looks_after_the_deadline(transactional_db):
    job = make_running()
    begin(job, wait := for_event(timeout=0))
    send_event("k", "in time")
    assert look(job, wait).answer == '{"event": "in time"}'


@pytest.mark.parametrize(("key", "waits_for_the_disk"), [("k", "off"), ("late", "on")])
def test_only_the_answer_that_no_later_look_would_find_is_on_the_disk_first(server, key, waits_for_the_disk):
    job = make_running()
    begin(job, wait := for_event(key, timeout=0))
    send_event("k")
    with server.transaction():
        place = of_look(job, wait)
        assert server.execute(waits.LOOK.sql, place).fetchone()[2] == "new"
        assert server.execute("SHOW synchronous_commit").fetchone() == (waits_for_the_disk,)
    assert server.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_run_that_has_lost_its_job_stores_no_answer(transactional_db):
    job = make_running()
    begin(job, wait := for_event())
    Job.objects.update(lease_epoch=2)
    send_event("k")
    with pytest.raises(LeaseLost):
        look(job, wait)
    assert (Step.objects.count(), Wait.objects.count()) == (0, 1)


@pytest.mark.parametrize("key", ["", "x" * 241, 7, None, "a\0b"])
def test_a_key_that_cannot_be_stored_is_refused_on_both_sides(transactional_db, key):
    for call in (for_event, send_event):
        with pytest.raises(StepNameError, match="The key of an event must be a str of 1 to 240 characters"):
            call(key)


# The sender's side.


def test_the_first_event_is_the_answer(server):
    server.execute(f"LISTEN {notify.CHANNEL}")
    assert send_event("k", {"by": 1}, keep=HOUR)
    assert not send_event("k", {"by": 2})
    event = Event.objects.get()
    assert (event.payload, event.is_delivered) == ({"by": 1}, False)
    assert timedelta(minutes=59) < event.expires_at - timezone.now() <= HOUR
    assert heard(server) == [notify.EVENT]


def test_an_event_takes_one_round_trip_with_its_notify(server):
    connection.close()
    server.execute(f"LISTEN {notify.CHANNEL}")
    for number in range(2 * PREPARE_THRESHOLD):
        time.sleep(notify.DENSE_SECONDS)
        send_event(f"k {number}")
    heard(server)
    taken = []
    for number in range(3):  # on a busy machine one of them may wait for more
        time.sleep(notify.DENSE_SECONDS)
        with counted_calls() as counts:
            send_event(f"counted {number}")
        taken.append((counts["libpq.py:_answer"], heard(server)))
    assert min(taken) == (1, [notify.EVENT])


def test_a_coroutine_sends_events(transactional_db):
    send = async_to_sync(asend_event)
    assert [send("k", 1, keep=HOUR), send("k", 2)] == [True, False]
    assert Event.objects.get().payload == 1


def test_many_events_are_sent_in_one_statement_and_each_first_one_counts(server):
    server.execute(f"LISTEN {notify.CHANNEL}")
    assert send_event("b", 0)
    heard(server)
    assert send_events({"c": 3, "a": None, "b": 2}, keep=HOUR) == {"a", "c"}
    assert dict(Event.objects.values_list("key", "payload")) == {"a": None, "b": 0, "c": 3}
    assert heard(server) == [notify.EVENT]
    assert (send_events({"a": 1}), send_events({})) == (set(), set())
    assert async_to_sync(asend_events)({"d": 4}) == {"d"}


@pytest.mark.parametrize(("key", "payload"), [("", 1), ("c", {1})])
def test_of_many_events_that_cannot_all_be_stored_none_is_sent(transactional_db, key, payload):
    with pytest.raises((StepNameError, NotStorableError)):
        send_events({"a": 1, key: payload})
    assert not Event.objects.exists()


def test_two_senders_of_many_events_wait_for_each_other_and_do_not_deadlock(other, beside):
    """Another transaction has sent the first key: a sender that began with the second one would hold that meanwhile."""
    with other.transaction():
        other.execute(waits.SEND.sql, {"key": "a", "payload": "1", "keep": HOUR})
        second = beside(send_events, {"b": 2, "a": 2})
        with connect("default", application_name="pgonly tests, looking") as looking:
            wait_until_blocked(looking)
        other.execute(waits.SEND.sql, {"key": "b", "payload": "1", "keep": HOUR})
    assert second.result(30) == set()
    assert set(Event.objects.values_list("payload", flat=True)) == {1}


def test_an_event_belongs_to_its_transaction(server):
    server.execute(f"LISTEN {notify.CHANNEL}")
    with transaction.atomic():
        assert send_event("k")
        assert not send_event("k")
        transaction.set_rollback(True)
    assert heard(server) == []
    assert send_event("k")


def test_a_payload_that_is_no_json_leaves_the_transaction_usable(transactional_db):
    with transaction.atomic():
        with pytest.raises(NotStorableError, match="The payload of an event cannot be stored"):
            send_event("k", {1, 2})
        assert send_event("k", "text")


def test_without_autocommit_no_worker_would_be_told(transactional_db):
    connection.set_autocommit(False)
    try:
        with pytest.raises(ManualCommitError):
            send_event("k")
    finally:
        connection.set_autocommit(True)


@pytest.mark.parametrize("commits", [True, False])
def test_a_sender_waits_for_another_one_that_has_sent_the_key(other, beside, commits):
    with other.transaction(force_rollback=not commits):
        other.execute(waits.SEND.sql, {"key": "k", "payload": "1", "keep": HOUR})
        second = beside(send_event, "k", 2)
        with connect("default", application_name="pgonly tests, looking") as looking:
            wait_until_blocked(looking)
    assert second.result(30) is not commits
    assert Event.objects.get().payload == (1 if commits else 2)


def test_a_serializable_sender_is_told_to_repeat_its_transaction(server, other):
    job = make_waiting()
    with pytest.raises(OperationalError, match="could not serialize"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            cursor.execute("SELECT count(*) FROM pgonly_event")
        other.execute(waits.SEND.sql, {"key": "k", "payload": "1", "keep": HOUR})
        send_event("k", 2)
    assert deliver(server) == Delivered(1, 1)
    assert states(job) == [State.READY]


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_outside_a_transaction_the_second_of_two_senders_is_told_that_it_was_second(other, beside, level):
    def send():
        connection.ensure_connection()
        connection.connection.isolation_level = level
        connection.connection.execute(f"SET default_transaction_isolation = '{level.name.replace('_', ' ')}'")
        return send_event("k", 2)

    with other.transaction():
        other.execute(waits.SEND.sql, {"key": "k", "payload": "1", "keep": HOUR})
        second = beside(send)
        with connect("default", application_name="pgonly tests, looking") as looking:
            wait_until_blocked(looking)
    assert second.result(30) is False
    assert Event.objects.get().payload == 1


def test_an_answer_stays_until_a_job_that_runs_again_has_heard_it(transactional_db):
    """It is another run than the one that waited, and has not come to its wait yet."""
    job, other = make_waiting(), make_waiting()
    Wait.objects.filter(job=job).update(choices=["yes", "no"])
    Wait.objects.filter(job=other).update(choices=["left", "right"])
    assert send_event("k", "yes")
    Job.objects.filter(pk=job.pk).update(
        lease_epoch=2, state=State.RUNNING, run_at=None, worker_id=uuid4(), lease_expires_at=ago(-HOUR)
    )
    assert not send_event("k", "left")
    Wait.objects.filter(job=job).delete()  # it has heard the answer
    assert send_event("k", "left")


def test_the_names_of_the_answers_to_several_keys_are_those_of_no_other_keys():
    names = {
        waits.name_of(waits.for_first(dict.fromkeys(keys), None)) for keys in (["a, b", "c"], ["a", "b, c"])
    }
    assert names == {'first of "a, b", "c"', 'first of "a", "b, c"'}


def test_the_answer_to_a_key_counts_also_where_the_key_has_become_a_time():
    of = waits.for_first({"a": None, "b": 60}, None)
    assert waits.first_in('{"first": "event b", "event": 7}', of) == ("b", 7)
