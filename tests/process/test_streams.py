"""Streams of events in a real web server."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from pgonly_django.progress.tokens import Grant
from tests.activity import pids
from tests.process.test_tick import UVICORN, serve  # noqa: F401 - a fixture
from tests.queue.rows import make_running, make_worker
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
STREAMS = 30


@pytest.fixture
def address():
    """The path and the cookie of a stream of a running job."""
    ada, client = User.objects.create_user("ada", password="-"), Client()
    client.force_login(ada)
    token = Grant("default", str(make_running(make_worker().pk).pk)).token(f"user {ada.pk}")
    return f"{reverse('pgonly:progress_events')}?token={token}", client.cookies["sessionid"].value


@contextlib.contextmanager
def open_stream(server, address):
    """A client that has the first event."""
    path, cookie = address
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: sessionid={cookie}\r\n\r\n".encode()
        )
        received = b""
        while b"data: " not in received:
            received += client.recv(65536)
        yield client


def threads(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads"))


def test_open_streams_hold_no_threads_and_one_connection_and_do_not_keep_uvicorn_from_ending(
    serve,  # noqa: F811
    address,
):
    before = set(pids())  # another test may have left some
    server = serve(*UVICORN)
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            stack.enter_context(open_stream(server, address))
        wait_for(lambda: threads(server) < STREAMS, what="the threads of the requests to end")
        what = "the connections of the requests to be closed"
        wait_for(lambda: len(set(pids()) - before) <= 1, what=what)
        server.process.terminate()
        server.process.wait(10)
