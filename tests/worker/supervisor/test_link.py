"""The child's side: what a worker tells its supervisor, and what it does when that says something or is gone."""

from __future__ import annotations

import pytest

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import WorkerState
from pgonly_django.worker.supervisor.channel import Channel
from pgonly_django.worker.supervisor.link import Link, is_database_there
from tests.waiting import wait_for


@pytest.fixture
def link(transactional_db):
    """A link of a worker that does not run, and the supervisor's end of its channel."""
    ours, theirs = Channel.pair()
    worker = WorkerLoop(WorkerOptions(threads=1, max_jobs_per_process=1))
    link = Link(worker, theirs)
    yield link, ours
    link._is_over = True
    ours.close()
    link.join(10) if link.ident else None
    theirs.close()
    worker.database.close()
    worker.inbox.close()


def told(supervisor, key):
    found = []

    def look():
        found.extend(message[key] for message in supervisor.receive() if key in message)
        return found

    return wait_for(look)


def test_the_id_is_told_before_the_worker_runs(link):
    link, supervisor = link
    link.start()
    (status, *_) = told(supervisor, "status")
    assert (status["worker_id"], status["state"]) == (str(link.worker.id), WorkerState.STARTING)


def test_a_process_retires_by_itself_and_tells_why(link):
    link, supervisor = link
    link.worker.room.jobs_left = 0
    link.start()
    assert told(supervisor, "retire") == ["1 job(s) claimed (--max-jobs-per-process 1)"]
    supervisor.send({"payload": "wake"})
    messages = []
    wait_for(lambda: messages.extend(link.worker.inbox.take(10, 0.0)) or len(messages) == 2)
    assert messages == ["retire", "wake"]


def test_a_worker_stops_when_the_supervisor_is_gone(link):
    link, supervisor = link
    link.start()
    supervisor.close()
    wait_for(lambda: link.worker.is_stopping)
    link.join(10)
    assert not link.is_alive()


def test_at_the_end_it_tells_whether_all_has_been_given_back(link):
    link, supervisor = link
    link.end()
    assert told(supervisor, "holds_nothing") == [True]


def test_at_the_end_it_tells_whether_it_had_no_time_for_more(link):
    link, supervisor = link
    link.worker.deadline.claims_until = 0.0
    link.end()
    assert told(supervisor, "is_out_of_time") == [True]


def test_an_error_does_not_silence_the_process(link, monkeypatch, caplog):
    link, supervisor = link
    link.start()
    told(supervisor, "status")
    with monkeypatch.context() as patch:
        patch.setattr(link.retirement, "reason", lambda _: 1 / 0)
        wait_for(lambda: "The status could not be told to the supervisor, trying again" in caplog.text)
    link.worker.ends.jobs_released = 7
    wait_for(lambda: told(supervisor, "status")[-1]["jobs_released"] == 7)


def test_a_worker_waits_for_its_database_until_it_is_told_to_stop(link, monkeypatch):
    link, _ = link
    assert is_database_there(link.worker)
    looks = []

    def nothing():
        looks.append(1)
        if len(looks) == 3:
            link.worker.shutdown.ask()

    monkeypatch.setattr(link.worker.database, "connection", nothing)
    assert not is_database_there(link.worker)
    assert len(looks) == 3
