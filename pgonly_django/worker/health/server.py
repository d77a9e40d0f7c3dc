"""A small HTTP server that starts no thread: a loop of selectors in another file drives it.

It is for probes, which must be answered while others do their worst: a client that is slow, silent or greedy is given
up, and where there are too many the oldest makes room for the newest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.worker import forked_child
from pgonly_django.worker.health.http import REQUEST_LIMIT, RefusedError, Request, Response, parse
from pgonly_django.worker.timers import NEVER

CLIENTS_AT_MOST = 64
CLIENT_SECONDS = 2.0  # from its connection to its end
REFUSED_SECONDS = 1.0  # without accepting, once the process has no descriptor left
BACKLOG = 128

Events = dict[int, int]  # by file descriptor, the events of `selectors`


class PortTakenError(OptionError):
    """The port cannot be opened."""


class Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + CLIENT_SECONDS
        self.received = bytearray()
        self.unsent = b""
        self.is_answered = False

    @property
    def events(self) -> int:
        return selectors.EVENT_WRITE if self.unsent else selectors.EVENT_READ


class HealthServer:
    """For one thread. Raises PortTakenError when the port cannot be opened."""

    def __init__(self, host: str, port: int, respond: Callable[[Request], Response]) -> None:
        self._respond = respond
        self._clients: dict[int, Client] = {}  # by file descriptor, the oldest first
        self._refused_until = 0.0
        try:
            self._listener = _listen(host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PortTakenError(
                f"--health-port {port} cannot be opened on {host}: {reason}. Choose another port, or 0 for none."
            ) from error
        forked_child.detach(self._listener)

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    def sockets(self) -> Events:
        """What to wait for."""
        found = {descriptor: client.events for descriptor, client in self._clients.items()}
        if time.monotonic() >= self._refused_until:
            found[self._listener.fileno()] = selectors.EVENT_READ
        return found

    def next_deadline(self) -> float:
        """When handle() has to be called at the latest, as time.monotonic()."""
        deadlines = [client.until for client in self._clients.values()]
        if self._refused_until > time.monotonic():
            deadlines.append(self._refused_until)
        return min(deadlines, default=NEVER)

    def handle(self, ready: Mapping[int, int]) -> None:
        """Serve those of `ready`, some of the sockets(). It does not block, and raises nothing."""
        for descriptor in ready:
            if descriptor == self._listener.fileno():
                self._accept()
            elif (client := self._clients.get(descriptor)) is not None:
                self._serve(descriptor, client)
        now = time.monotonic()
        for descriptor in [each for each, client in self._clients.items() if now >= client.until]:
            self._drop(descriptor)

    def close(self) -> None:
        """Also in a forked child: what its parent has open stays open."""
        for descriptor in tuple(self._clients):
            self._drop(descriptor)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(CLIENTS_AT_MOST):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._refused_until = time.monotonic() + REFUSED_SECONDS
                    return
                continue  # this client has gone already
            connection.setblocking(False)
            forked_child.detach(connection)
            if len(self._clients) >= CLIENTS_AT_MOST:
                self._drop(next(iter(self._clients)))
            client = self._clients[connection.fileno()] = Client(connection)
            self._serve(connection.fileno(), client)  # a probe has sent its request, as a rule

    def _serve(self, descriptor: int, client: Client) -> None:
        try:
            if client.is_answered and not client.unsent:
                self._wait_for_its_end(descriptor, client)
                return
            if not client.is_answered:
                self._receive(descriptor, client)
            if client.unsent:
                self._send(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(descriptor)

    def _receive(self, descriptor: int, client: Client) -> None:
        data = client.connection.recv(REQUEST_LIMIT)
        if not data:
            self._drop(descriptor)
            return
        client.received += data
        is_head = client.received.startswith(b"HEAD ")
        try:
            request = parse(bytes(client.received))
            if request is None:
                return
            response = self._answer(request)
        except RefusedError as error:
            response = error.response
        client.unsent, client.is_answered = response.encode(with_body=not is_head), True

    def _answer(self, request: Request) -> Response:
        try:
            return self._respond(request)
        except Exception as error:  # noqa: BLE001 - one answer that cannot be made ends no process
            message = f"{request.method} {request.path} of the health port failed: {error!r}"
            emit("worker.health_failed", message, level=logging.ERROR, exc_info=True)
            return Response.of(500, {"error": "The log says why."})

    def _send(self, client: Client) -> None:
        sent = client.connection.send(client.unsent)
        client.unsent = client.unsent[sent:]
        if not client.unsent:
            client.connection.shutdown(socket.SHUT_WR)

    def _wait_for_its_end(self, descriptor: int, client: Client) -> None:
        """A close with unread data would cut the answer off, so the rest is read first."""
        if not client.connection.recv(REQUEST_LIMIT):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor)
        with contextlib.suppress(OSError):
            client.connection.close()


def _listen(host: str, port: int) -> socket.socket:
    """`::` serves IPv4 as well. Raises OSError."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share the port with another process
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
