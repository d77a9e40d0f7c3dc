"""The HTTP server of the health port: one request without a body and one response per connection, each in a thread.

Probes must be answered while other clients do their worst: one that is slow, silent or greedy is dropped, and where
there are too many the oldest makes room for the newest.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from pgonly_django.worker import forked_child

REQUEST_LIMIT = 4096  # bytes
REQUEST_LINE = re.compile(rb"[A-Za-z]+ /\S* HTTP/1\.")
CLIENTS_AT_MOST = 64
CLIENT_SECONDS = 2.0  # from its connection to its end
ACCEPT_AGAIN_SECONDS = 0.1  # after an accept() that failed, as where the process has no descriptor left
END_SECONDS = 1.0  # in which the threads of clients end that were dropped

# From the method, the path and the header Authorization to the status, the body, its type, and more headers.
Respond = Callable[[str, str, str], tuple[int, bytes, str, Mapping[str, str]]]


class ProbeServer(ThreadingHTTPServer):
    """A server whose listener some loop waits for, which then calls handle_request(): it does not block. Raises OSError
    when the port cannot be opened."""

    request_queue_size = 128
    allow_reuse_port = False  # a port that is taken is an error

    def __init__(self, host: str, port: int, respond: Respond) -> None:
        self.respond = respond
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._threads_of: dict[socket.socket, threading.Thread] = {}  # by client, the oldest first
        super().__init__((host, port), Probe)
        self.socket.setblocking(False)
        forked_child.detach(self.socket)

    def server_bind(self) -> None:
        """Binds it. `::` serves IPv4 as well. HTTPServer's own would ask the DNS for the name of the host."""
        if self.address_family == socket.AF_INET6 and socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_AGAIN_SECONDS)  # the listener stays ready: the loop would turn without a pause
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        forked_child.detach(request)
        self._threads_of = {each: thread for each, thread in self._threads_of.items() if _is_there(thread)}
        self._drop(*list(self._threads_of)[: 1 - CLIENTS_AT_MOST])
        serve, args = self.process_request_thread, (request, client_address)
        thread = threading.Thread(target=serve, args=args, name="pgonly-probe", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system starts no more threads
            serve(*args)
        else:
            self._threads_of[request] = thread

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a client that has left, or whose time is over."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _drop(self, *clients: socket.socket) -> None:
        """Ends all calls of their threads on these sockets, and so the threads."""
        for client in clients:
            with suppress(OSError):  # it is closed
                client.shutdown(socket.SHUT_RDWR)

    def end_clients(self, seconds: float) -> None:
        """Drops the clients that have no answer within `seconds`, and waits until their threads have ended."""
        until = time.monotonic() + seconds
        for thread in self._threads_of.values():
            thread.join(max(until - time.monotonic(), 0.0))
        self._drop(*self._threads_of)
        while any(map(_is_there, self._threads_of.values())) and time.monotonic() < until + END_SECONDS:
            time.sleep(0.005)

    def close(self) -> None:
        self._drop(*self._threads_of)
        self.forget()

    def forget(self) -> None:
        """Closes the sockets of this process alone: for a forked child."""
        self.server_close()
        for client in self._threads_of:
            client.close()


def _is_there(thread: threading.Thread) -> bool:
    """Returns whether the thread lives, also for the system, which ends it a moment after Python has."""
    return thread.is_alive() or Path(f"/proc/self/task/{thread.native_id}").exists()


class Probe(BaseHTTPRequestHandler):
    """A request and its response, within CLIENT_SECONDS."""

    server: ProbeServer
    request: socket.socket
    wfile: BytesIO
    protocol_version = default_request_version = request_version = "HTTP/1.1"

    def setup(self) -> None:
        """Receives the request. Raises OSError for a client that has left or is late."""
        self.until = time.monotonic() + CLIENT_SECONDS
        self.received, self.wfile = b"", BytesIO()
        while b"\r\n\r\n" not in self.received and len(self.received) < REQUEST_LIMIT:
            if not (data := self._in_time().recv(REQUEST_LIMIT)):
                raise ConnectionResetError
            self.received += data

    def handle(self) -> None:
        self.rfile = BytesIO(self.received)
        self.raw_requestline = self.rfile.readline()
        if b"\r\n\r\n" not in self.received:
            self.send_error(431, f"A request may have {REQUEST_LIMIT} bytes.")
        elif not REQUEST_LINE.match(self.received):
            self.send_error(400, "This is not an HTTP request.")
        elif self.parse_request():
            path = self.path.partition("?")[0].rstrip("/") or "/"
            self._send(
                *self.server.respond(self.command.upper(), path, self.headers.get("Authorization", ""))
            )

    def finish(self) -> None:
        self._in_time().sendall(self.wfile.getvalue())
        self.request.shutdown(socket.SHUT_WR)
        while self._in_time().recv(REQUEST_LIMIT):  # a close before the client's end would cut the answer off
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - its signature
        self._send(code, json.dumps({"error": message}).encode() + b"\n", "application/json", {})

    def _send(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        head = {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **headers,
        }
        self.send_response_only(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        if not self.received.startswith(b"HEAD "):
            self.wfile.write(body)

    def _in_time(self) -> socket.socket:
        """Returns the connection, whose next call may take what is left of the time. Raises TimeoutError."""
        if (left := self.until - time.monotonic()) <= 0.0:
            raise TimeoutError
        self.request.settimeout(left)
        return self.request
