from __future__ import annotations

import socket

import pytest

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import WorkerState
from pgonly_django.worker.supervisor.channel import RECEIVE_BYTES, Channel, Link, is_database_there


def test_messages_arrive_in_their_order_and_the_end_is_noticed():
    ours, theirs = Channel.pair()
    ours.send({"a": 1})
    ours.send({"b": "ü"})
    assert theirs.receive() == [{"a": 1}, {"b": "ü"}]
    assert not theirs.is_closed
    ours.send({"last": True})
    ours.close()
    assert theirs.receive() == [{"last": True}]
    assert theirs.receive() == []
    assert theirs.is_closed
    theirs.send({"to": "nobody"})
    theirs.close()


def test_a_side_that_does_not_read_holds_up_nobody_and_gets_whole_messages_later():
    ours, theirs = Channel.pair()
    for number in range(20_000):
        ours.send({"number": number})
    received = theirs.receive()
    while more := theirs.receive():
        received += more
    assert [message["number"] for message in received] == list(range(len(received)))
    assert 100 < len(received) < 20_000
    ours.send({"number": -1})
    assert theirs.receive() == [{"number": -1}]
    ours.close()
    theirs.close()


def test_what_is_no_message_is_dropped_and_the_next_one_is_read():
    raw, theirs = socket.socketpair()
    end = Channel(theirs)
    raw.sendall(b'\xff\xfe\n[1]\n"text"\n{"half": \n{"whole": 1}\n{"begun"')
    assert end.receive() == [{"whole": 1}]
    raw.sendall(b": 2}\n")
    assert end.receive() == [{"begun": 2}]
    raw.setblocking(False)
    sent = 0
    while sent < 2 * RECEIVE_BYTES:
        sent += raw.send(b"x" * 10_000)
        assert end.receive() == []
    raw.sendall(b'\n{"after": 1}\n')
    assert end.receive()[-1] == {"after": 1}
    raw.close()
    end.close()


@pytest.fixture
def link(transactional_db):
    """The link of a worker that does not run, and the supervisor's end of its channel."""
    ours, theirs = Channel.pair()
    worker = WorkerLoop(WorkerOptions(threads=1))
    yield Link(worker, theirs), ours
    ours.close()
    theirs.close()
    worker.database.close()
    worker.inbox.close()


def told(supervisor, key):
    return [message[key] for message in supervisor.receive() if key in message]


def test_the_status_is_told_when_it_changes(link):
    link, supervisor = link
    link.turn()
    link.turn()
    (status,) = told(supervisor, "status")
    assert (status["worker_id"], status["state"]) == (str(link.worker.id), WorkerState.STARTING)
    link.worker.following.jobs_released = 7
    link.turn()
    assert told(supervisor, "status")[0]["jobs_released"] == 7


def test_what_the_supervisor_says_reaches_the_main_loop(link):
    link, supervisor = link
    supervisor.send({"payload": "wake"})
    supervisor.send({"payload": "rescued-failed 7"})
    link.turn()
    assert link.worker.inbox.take(10, 0.0) == ["wake", "rescued-failed 7"]


def test_a_worker_stops_when_the_supervisor_is_gone(link, caplog):
    link, supervisor = link
    supervisor.close()
    link.turn()
    link.turn()
    assert link.worker.is_stopping
    assert caplog.text.count("The supervisor is gone") == 1


def test_at_the_end_it_tells_whether_all_has_been_given_back_and_whether_it_had_no_time_for_more(link):
    link, supervisor = link
    link.worker.deadline.claims_until = 0.0
    link.end()
    (message,) = supervisor.receive()
    assert (message["holds_nothing"], message["is_out_of_time"]) == (True, True)


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
