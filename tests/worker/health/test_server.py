"""The server over real sockets, driven by a thread as in a worker."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time

import pytest

from pgonly_django.events import subscribe
from pgonly_django.worker import forked_child
from pgonly_django.worker.health import health as health_module
from pgonly_django.worker.health import server as module
from pgonly_django.worker.health.health import ANSWERS, Health, PortTakenError, Response
from pgonly_django.worker.health.server import CLIENTS_AT_MOST, REQUEST_LIMIT, ProbeServer
from pgonly_django.worker.inbox import wait_for as wait_for_sockets
from tests.waiting import wait_for


def free_port(host="127.0.0.1"):
    with socket.create_server((host, 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def in_thread(health):
    """Drive it, as a worker's process does, until the end of the block."""
    is_over = threading.Event()

    def turn():
        while not is_over.is_set():
            seconds = min(health.next_deadline() - time.monotonic(), 0.02)
            wait_for_sockets(health.sockets(), max(seconds, 0.0))
            health.handle()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield health
    finally:
        is_over.set()
        thread.join()
        health.close()


@pytest.fixture
def served(monkeypatch):
    """A Health on a port of its own, with a thread, and with paths that misbehave."""

    def break_down(_):
        raise ZeroDivisionError

    monkeypatch.setitem(ANSWERS, "/big", lambda _: Response(200, b"x" * 3_000_000))
    monkeypatch.setitem(ANSWERS, "/broken", break_down)
    monkeypatch.setattr(health_module, "PATHS", [*health_module.PATHS, "/big", "/broken"])
    with in_thread(Health("127.0.0.1", free_port())) as health:
        yield health


def ask(health, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", health.server.server_address[1], timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def connect(health):
    return socket.create_connection(("127.0.0.1", health.server.server_address[1]), timeout=10)


def threads():
    """Those that serve clients."""
    return [thread for thread in threading.enumerate() if thread.name == "pgonly-probe"]


def read_all(client):
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_it_answers_get_head_and_post(served):
    assert ask(served, "GET", "/live")[0] == 200
    assert ask(served, "HEAD", "/live") == (200, b"")
    assert ask(served, "POST", "/wake", b"a body is read and dropped")[0] == 401
    assert ask(served, "POST", "/live")[0] == 405
    assert ask(served, "GET", "/else")[0] == 404


def test_an_answer_that_is_larger_than_the_buffers_arrives_whole(served):
    with connect(served) as client:
        client.sendall(b"GET /big HTTP/1.0\r")
        client.sendall(b"\n\r\n")  # a request may come in pieces
        wait_for(lambda: ask(served, "GET", "/live")[0] == 200)  # meanwhile others are served
        assert len(read_all(client)) > 3_000_000


def test_a_broken_answer_is_a_500_that_the_log_explains(served):
    said = []
    stop = subscribe(lambda name, facts: said.append(name))
    assert ask(served, "GET", "/broken")[0] == 500
    stop()
    assert said == ["worker.health_failed"]
    assert ask(served, "GET", "/live")[0] == 200


def test_a_client_that_sends_more_than_is_read_gets_its_answer_all_the_same(served):
    with connect(served) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n\r\n" + b"x" * 100_000)
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_sends_nothing_more_is_dropped(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.1)
    with connect(served) as client:
        client.sendall(b"GET /live HT")
        assert read_all(client) == b""


def test_a_client_that_sends_a_little_again_and_again_has_no_more_time_than_others(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.3)
    for request in (b"GET /live HTTP/1.1\r\nA: ", b"GET /live HTTP/1.1\r\n\r\n"):
        with connect(served) as client, contextlib.suppress(ConnectionError):
            client.sendall(request)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                client.sendall(b"x")
                time.sleep(0.01)
        assert time.monotonic() < deadline


def test_a_client_that_reads_nothing_is_dropped(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.2)
    with connect(served) as client:
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        wait_for(threads)
        wait_for(lambda: not threads())


def test_clients_that_reset_their_connections_harm_nobody(served):
    for _ in range(20):
        client = connect(served)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        client.close()
    assert ask(served, "GET", "/live")[0] == 200


def test_a_probe_is_served_though_others_hold_every_place(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 60.0)
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(connect(served)) for _ in range(CLIENTS_AT_MOST + 20)]
        wait_for(lambda: len(threads()) == CLIENTS_AT_MOST)
        assert ask(served, "GET", "/live")[0] == 200
        assert slow[0].recv(10) == b""  # the oldest made room
        wait_for(lambda: len(threads()) <= CLIENTS_AT_MOST)


def test_without_a_free_descriptor_it_rests_and_goes_on(served, monkeypatch):
    monkeypatch.setattr(module, "ACCEPT_AGAIN_SECONDS", 0.05)

    class Full:
        tries = 0

        def __init__(self, listener):
            self.listener = listener

        def accept(self):
            self.tries += 1
            if self.tries < 4:
                raise OSError(24, "Too many open files")
            return self.listener.accept()

        def __getattr__(self, name):
            return getattr(self.listener, name)

    full = served.server.socket = Full(served.server.socket)
    assert ask(served, "GET", "/live")[0] == 200
    assert full.tries >= 4


def test_without_a_free_thread_it_answers_all_the_same(served, monkeypatch):
    class Thread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.threading, "Thread", Thread)
    assert ask(served, "GET", "/live")[0] == 200


def test_before_a_fork_clients_get_their_answers_or_are_dropped(monkeypatch):
    """In the thread of the loop, as a supervisor calls it."""
    monkeypatch.setattr(health_module, "PROBE_SECONDS", 1.0)
    with Health("127.0.0.1", free_port()) as health, connect(health) as silent, connect(health) as probe:
        probe.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        for _ in range(2):
            wait_for_sockets(health.sockets(), 10.0)
            health.handle()
        assert len(threads()) == 2
        health.end_clients()
        assert not threads()
        assert read_all(probe).startswith(b"HTTP/1.1 200 ")
        assert read_all(silent) == b""


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            PortTakenError,
            match=rf"--health-port {port} cannot be opened on 127.0.0.1: Address already in use. Choose an",
        ):
            Health("127.0.0.1", port)


def test_an_ipv6_address_serves_both(monkeypatch):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with in_thread(Health("::", free_port())) as health:
        assert health.address == f"http://[::]:{health.server.server_address[1]}"
        assert ask(health, "GET", "/live")[0] == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_of_a_job_keeps_no_port_taken(served):
    """With a client connected, whose connection the child would keep open as well."""
    client = connect(served)
    wait_for(threads)
    reading, writing = os.pipe()
    with forked_child.as_worker({}):
        pid = os.fork()
    if not pid:
        os.read(reading, 1)  # until the parent has looked
        os._exit(0)
    try:
        port = served.server.server_address[1]
        served.close()
        assert client.recv(1) == b""

        def is_free():  # once the thread has noticed
            with contextlib.suppress(PortTakenError):
                Health("127.0.0.1", port).close()
                return True

        wait_for(is_free, 5.0)
    finally:
        os.write(writing, b"!")
        os.waitpid(pid, 0)
        for descriptor in (reading, writing):
            os.close(descriptor)
        client.close()


# Requests and responses.


def exchange(health, *parts):
    """The status, the lines of the head and the body of the answer."""
    with connect(health) as client:
        for part in parts:
            client.sendall(part)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return int(first.removeprefix(b"HTTP/1.1 ").split()[0]), [first, *lines], body


def test_a_request_is_parsed():
    asked = []

    def respond(*request):
        asked.append(request)
        return Response.of(200, {})

    health = Health()
    health.server = ProbeServer("127.0.0.1", free_port(), respond)
    with in_thread(health):
        exchange(health, b"POST /wake/?a=1 HTTP/1.1\r\nHost: x\r\nauthorization:  Bearer t\r\n\r\nhi")
        exchange(health, b"GET / HTTP/1.0\r\n\r\n")
    assert asked == [("POST", "/wake", "Bearer t"), ("GET", "/", "")]


@pytest.mark.parametrize("received", [b"", b"GET /live HTTP/1.1\r\n"])
def test_an_incomplete_request_waits(served, received):
    with connect(served) as client:
        client.sendall(received)
        assert ask(served, "GET", "/live")[0] == 200
        client.sendall(b"GET /live HTTP/1.1\r\n\r\n".removeprefix(received))
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"x" * REQUEST_LIMIT, 431),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET live HTTP/1.1\r\n\r\n", 400),
        (b"GET /live\r\n\r\n", 400),
        (b"GET /live HTTP/2\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(served, received, status):
    found, _, body = exchange(served, received)
    assert found == status
    assert json.loads(body)["error"]


def test_a_response_says_its_length_and_that_nobody_may_keep_it(served):
    of_get, of_head = (exchange(served, method + b" /wake HTTP/1.1\r\n\r\n") for method in (b"GET", b"HEAD"))
    assert of_get[1] == [
        b"HTTP/1.1 405 Method Not Allowed", b"Content-Type: application/json", b"Content-Length: 31",
        b"Cache-Control: no-store", b"Connection: close", b"Allow: POST",
    ]  # fmt: skip
    assert json.loads(of_get[2]) == {"error": "/wake takes POST."}
    assert of_head == (405, of_get[1], b"")
