from __future__ import annotations

import select
import socket
import subprocess
import sys

import pytest

from pgonly_django.database.operation import READ, WRITE, PollBySelect, new_poll
from tests.children import ROOT, environment

WITHOUT_POLL = """
import select
del select.poll, select.epoll  # as eventlet.monkey_patch() does
import django
django.setup()
from pgonly_django.cache import PostgresCache
from pgonly_django.sessions import SessionStore
cache = PostgresCache("without poll", {"OPTIONS": {"ON_ERROR": "raise", "TIMEOUT_SECONDS": 20}})
cache.set("large", "x" * 20_000_000)
assert len(cache.get("large")) == 20_000_000
session = SessionStore()
session["key"] = "value"
session.save()
assert SessionStore(session.session_key)["key"] == "value"
"""


@pytest.mark.parametrize("kind", [PollBySelect, new_poll])
def test_it_says_what_a_socket_is_ready_for(kind):
    here, there = socket.socketpair()
    with here, there:
        poll = kind()
        poll.register(here.fileno(), READ | WRITE)
        assert poll.poll(0) == [(here.fileno(), WRITE)]
        poll.register(here.fileno(), READ)  # again: it replaces what was registered
        assert poll.poll(1) == []
        there.send(b"word")
        assert poll.poll() == [(here.fileno(), READ)]


def test_poll_is_not_used_any_more_once_it_is_taken_away(monkeypatch):
    """The kept function would wait with all green threads of the process."""
    monkeypatch.delattr(select, "poll")  # as eventlet.monkey_patch() does, after our modules were imported
    assert isinstance(new_poll(), PollBySelect)


@pytest.mark.process
def test_where_poll_is_missing_cache_and_sessions_do_without(transactional_db):
    command = [sys.executable, "-c", WITHOUT_POLL]  # a new interpreter: psycopg looks for poll at its import
    subprocess.run(command, cwd=ROOT, env=environment(), timeout=60, check=True)
