from __future__ import annotations

import signal
import socket
import threading
import time

import pytest

from pgonly_django.worker.inbox import Inbox

LONG = 20.0


@pytest.fixture
def inbox():
    box = Inbox()
    yield box
    box.close()


def later(do):
    timer = threading.Timer(0.2, do)
    timer.start()
    return timer


def take_soon(inbox):
    """The message, for which it need not wait to the end."""
    began = time.monotonic()
    (message,) = inbox.take(1, LONG)
    assert time.monotonic() - began < LONG / 2
    return message


@pytest.fixture
def alarm(inbox):
    """A signal whose handler tells the inbox to stop."""
    before = signal.signal(signal.SIGALRM, lambda *_: inbox.put("stop"))
    yield signal.SIGALRM
    signal.signal(signal.SIGALRM, before)


def test_messages_come_in_order_and_no_more_than_asked_for(inbox):
    for number in range(5):
        inbox.put(number)
    assert inbox.take(3, LONG) == [0, 1, 2]
    assert inbox.take(3, LONG) == [3, 4]
    assert inbox.take(3, 0.0) == []


def test_a_thread_wakes_the_one_that_waits(inbox):
    timer = later(lambda: inbox.put("message"))
    assert take_soon(inbox) == "message"
    timer.join()


@pytest.mark.usefixtures("alarm")
def test_a_signal_handler_wakes_the_one_that_waits(inbox):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    assert take_soon(inbox) == "stop"


def test_a_signal_that_another_thread_got_wakes_it_too(inbox, alarm):
    """Its handler runs in the main thread, which is asleep."""
    inbox.wake_on_signals()
    timer = later(lambda: signal.pthread_kill(threading.get_ident(), alarm))
    assert take_soon(inbox) == "stop"
    timer.join()
    inbox.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_what_the_database_sends_wakes_as_well(inbox):
    here, there = socket.socketpair()
    with here, there:
        timer = later(lambda: there.send(b"notify"))
        began = time.monotonic()
        assert inbox.take(1, LONG, here.fileno()) == []
        assert time.monotonic() - began < LONG / 2
        assert here.recv(6) == b"notify"  # left to whom it is for
        timer.join()


def test_a_wake_up_that_came_without_a_wait_ends_no_later_one(inbox):
    timer = later(lambda: [inbox.put(number) for number in range(3)])
    taken = []
    while len(taken) < 3:
        taken += inbox.take(10, LONG)
    timer.join()
    inbox.take(1, 0.01)
    began = time.monotonic()
    assert inbox.take(1, 0.1) == []
    assert time.monotonic() - began >= 0.1


def test_nothing_is_lost_between_many_who_put_and_one_who_takes(inbox):
    threads = [
        threading.Thread(target=lambda first=first: [inbox.put(first + n) for n in range(2000)])
        for first in range(0, 16_000, 2000)
    ]
    for thread in threads:
        thread.start()
    taken = []
    while len(taken) < 16_000:
        messages = inbox.take(100, 5.0)
        assert messages, "waited although there was a message"
        taken += messages
    assert sorted(taken) == list(range(16_000))


def test_a_message_to_a_closed_inbox_is_dropped(inbox):
    inbox.take(1, 0.01)
    inbox.close()
    inbox._is_waiting = True  # as a thread saw it just before
    inbox.put("late")
