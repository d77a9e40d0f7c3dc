from __future__ import annotations

import socket

from pgonly_django.worker.supervisor.channel import RECEIVE_BYTES, Channel


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
