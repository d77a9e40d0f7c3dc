"""The server over real sockets, driven by a thread as in a worker."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time

import pytest

from pgonly_django.events import subscribe
from pgonly_django.worker import forked_child
from pgonly_django.worker.health import server as module
from pgonly_django.worker.health.health import Health, HealthThread
from pgonly_django.worker.health.http import Response
from pgonly_django.worker.health.server import CLIENTS_AT_MOST, HealthServer, PortTakenError
from tests.waiting import wait_for


def free_port(host="127.0.0.1"):
    with socket.create_server((host, 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def served():
    """A Health on a port of its own, with a thread; `served.get("/live")` is its answer."""
    health = Health("127.0.0.1", free_port())
    health.add_route("GET", "/big", lambda _: Response(200, b"x" * 3_000_000))
    health.add_route("GET", "/broken", lambda _: 1 / 0)
    health.add_route("POST", "/wake", lambda request: Response.of(202, {"body": request.body.decode()}))
    thread = HealthThread(health)
    thread.start()
    yield health
    thread.end()
    assert not thread.is_alive()
    health.close()


def ask(health, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", health.server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def connect(health):
    return socket.create_connection(("127.0.0.1", health.server.port), timeout=10)


def read_all(client):
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_it_answers_get_head_and_post(served):
    assert ask(served, "GET", "/live")[0] == 200
    assert ask(served, "HEAD", "/live") == (200, b"")
    assert ask(served, "POST", "/wake", b"abc") == (202, b'{"body": "abc"}\n')
    assert ask(served, "POST", "/live")[0] == 405
    assert ask(served, "GET", "/else")[0] == 404


def test_an_answer_that_is_larger_than_the_buffers_arrives_whole(served):
    with connect(served) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        wait_for(lambda: ask(served, "GET", "/live")[0] == 200)  # meanwhile others are served
        assert len(read_all(client)) > 3_000_000


def test_a_request_may_come_in_pieces(served):
    with connect(served) as client:
        for piece in (b"GET /li", b"ve HTTP/1.1\r", b"\nHost: x\r\n\r", b"\n"):
            client.sendall(piece)
            time.sleep(0.01)
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


def test_a_broken_answer_is_a_500_that_the_log_explains(served):
    said = []
    stop = subscribe(lambda name, facts: said.append(name))
    assert ask(served, "GET", "/broken")[0] == 500
    stop()
    assert said == ["worker.health_failed"]
    assert ask(served, "GET", "/live")[0] == 200


def test_a_client_that_sends_too_much_gets_its_answer_all_the_same(served):
    with connect(served) as client:
        client.sendall(b"POST /wake HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + b"x" * 100_000)
        assert read_all(client).startswith(b"HTTP/1.1 413 ")


def test_a_silent_client_is_dropped(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.1)
    with connect(served) as client:
        client.sendall(b"GET /live HT")
        assert read_all(client) == b""
    wait_for(lambda: not served.server._clients)


def test_a_client_that_reads_nothing_is_dropped(served, monkeypatch):
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.2)
    with connect(served) as client:
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        wait_for(lambda: served.server._clients)
        wait_for(lambda: not served.server._clients)


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
        wait_for(lambda: len(served.server._clients) == CLIENTS_AT_MOST)
        assert ask(served, "GET", "/live")[0] == 200
        assert slow[0].recv(10) == b""  # the oldest made room
        assert len(served.server._clients) <= CLIENTS_AT_MOST


def test_without_a_free_descriptor_it_rests_and_goes_on(served, monkeypatch):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.05)

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

    full = served.server._listener = Full(served.server._listener)
    assert ask(served, "GET", "/live")[0] == 200
    assert full.tries >= 4


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            PortTakenError,
            match=rf"--health-port {port} cannot be opened on 127.0.0.1: Address already in use. Choose an",
        ):
            HealthServer("127.0.0.1", port, Response)


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(PortTakenError, match=r"cannot be opened on 192\.0\.2\.1: Cannot assign"):
        HealthServer("192.0.2.1", free_port(), Response)


def test_an_ipv6_address_serves_both(monkeypatch):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with Health("::", free_port()) as health, health.in_thread():
        assert health.address == f"http://[::]:{health.server.port}"
        assert ask(health, "GET", "/live")[0] == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_of_a_job_keeps_no_port_taken(served):
    """With a client connected, whose connection the child would keep open as well."""
    client = connect(served)
    wait_for(lambda: served.server._clients)
    reading, writing = os.pipe()
    forked_child.prepare({})
    pid = os.fork()
    if not pid:
        os.read(reading, 1)  # until the parent has looked
        os._exit(0)
    forked_child.undo_prepare()
    try:
        port = served.server.port
        served.close()
        assert client.recv(1) == b""
        HealthServer("127.0.0.1", port, Response).close()
    finally:
        os.write(writing, b"!")
        os.waitpid(pid, 0)
        for descriptor in (reading, writing):
            os.close(descriptor)
        client.close()
