"""A small HTTP server for probes, scrapers and schedulers: one request without a body and one response per connection.
It starts no thread: a loop of selectors elsewhere drives it.

Probes must be answered while other clients do their worst: one that is slow, silent or greedy is dropped, and where
there are too many the oldest makes room for the newest.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.worker import forked_child
from pgonly_django.worker.timers import NEVER

REQUEST_LIMIT = 4096  # bytes
CLIENTS_AT_MOST = 64
CLIENT_SECONDS = 2.0  # from its connection to its end
ACCEPT_AGAIN_SECONDS = 1.0  # after an accept() that failed, as where the process has no descriptor left
BACKLOG = 128

Events = dict[int, int]  # by file descriptor, the events of `selectors`


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, facts: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
        """Returns `facts` as JSON, in one line."""
        return cls(status, json.dumps(facts, default=str).encode() + b"\n", headers=headers or {})

    def encode(self, *, with_body: bool) -> bytes:
        head = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        return "\r\n".join((*lines, "", "")).encode("latin-1") + (self.body if with_body else b"")


@dataclass(frozen=True)
class ProbeRequest:
    method: str
    path: str  # without the query, and without a slash at its end
    headers: Mapping[str, str] = field(default_factory=dict)  # their names in lower case


class BadRequestError(Exception):
    """The client sent something that is not a request that is served here."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.response = Response.of(status, {"error": reason})


def parse(received: bytes) -> ProbeRequest | None:
    """Returns the request, or None while it is incomplete. Raises BadRequestError."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        if len(received) >= REQUEST_LIMIT:
            raise BadRequestError(431, f"A request may have {REQUEST_LIMIT} bytes.")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    if not method.isalpha() or not version.startswith("HTTP/1.") or not target.startswith("/"):
        raise BadRequestError(400, "This is not an HTTP request.")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return ProbeRequest(method.upper(), target.partition("?")[0].rstrip("/") or "/", headers)


class PortTakenError(OptionError):
    """The port cannot be opened."""


class ProbeClient:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + CLIENT_SECONDS
        self.received = b""
        self.unsent = b""
        self.is_answered = False

    @property
    def events(self) -> int:
        return selectors.EVENT_WRITE if self.unsent else selectors.EVENT_READ


class ProbeServer:
    """A server for one thread. Raises PortTakenError when the port cannot be opened."""

    def __init__(self, host: str, port: int, respond: Callable[[ProbeRequest], Response]) -> None:
        self._respond = respond
        self._clients: dict[int, ProbeClient] = {}  # by file descriptor, the oldest first
        self._accepts_at = 0.0
        try:
            self._listener = _listen(host, port)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise PortTakenError(
                f"--health-port {port} cannot be opened on {host}: {reason}. Choose another port, or 0 for none."
            ) from error
        forked_child.detach(self._listener)

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    def sockets(self) -> Events:
        """Returns the sockets to wait for."""
        found = {descriptor: client.events for descriptor, client in self._clients.items()}
        if time.monotonic() >= self._accepts_at:
            found[self._listener.fileno()] = selectors.EVENT_READ
        return found

    def next_deadline(self) -> float:
        """Returns when handle() has to be called at the latest, as time.monotonic()."""
        deadlines = [client.until for client in self._clients.values()]
        if self._accepts_at > time.monotonic():
            deadlines.append(self._accepts_at)
        return min(deadlines, default=NEVER)

    def handle(self, ready: Mapping[int, int]) -> None:
        """Serves those of `ready` that are of the sockets(). It does not block, and raises nothing."""
        for descriptor in ready:
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._clients:
                self._serve(descriptor)
        now = time.monotonic()
        for descriptor in [each for each, client in self._clients.items() if now >= client.until]:
            self._drop(descriptor)

    def close(self) -> None:
        """Closes it, also in a forked child: what its parent has open stays open."""
        for descriptor in tuple(self._clients):
            self._drop(descriptor)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._accepts_at = time.monotonic() + ACCEPT_AGAIN_SECONDS
            return
        connection.setblocking(False)
        forked_child.detach(connection)
        if len(self._clients) >= CLIENTS_AT_MOST:
            self._drop(next(iter(self._clients)))
        self._clients[connection.fileno()] = ProbeClient(connection)
        self._serve(connection.fileno())  # a probe has usually sent its request

    def _serve(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        try:
            if not client.unsent:
                data = client.connection.recv(REQUEST_LIMIT)
                if not data:
                    self._drop(descriptor)
                elif not client.is_answered:  # else drop it: a close before its end would cut the answer off
                    client.received += data
                    self._answer(client)
            if client.unsent:
                client.unsent = client.unsent[client.connection.send(client.unsent) :]
                if not client.unsent:
                    client.connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._drop(descriptor)

    def _answer(self, client: ProbeClient) -> None:
        """Answers when the request is complete."""
        try:
            request = parse(client.received)
            if request is None:
                return
            response = self._response_to(request)
        except BadRequestError as error:
            response = error.response
        client.unsent = response.encode(with_body=not client.received.startswith(b"HEAD "))
        client.is_answered = True

    def _response_to(self, request: ProbeRequest) -> Response:
        try:
            return self._respond(request)
        except Exception as error:  # noqa: BLE001 - one answer that cannot be made ends no process
            message = f"{request.method} {request.path} of the health port failed: {error!r}"
            emit("worker.health_failed", message, level=logging.ERROR, exc_info=True)
            return Response.of(500, {"error": "The log says why."})

    def _drop(self, descriptor: int) -> None:
        with suppress(OSError):
            self._clients.pop(descriptor).connection.close()


def _listen(host: str, port: int) -> socket.socket:
    """Listens. `::` serves IPv4 as well. Raises OSError."""
    is_ipv6 = ":" in host
    listener = socket.create_server(
        (host, port),
        family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        backlog=BACKLOG,
        dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
    )
    listener.setblocking(False)
    return listener
