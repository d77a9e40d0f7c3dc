"""The health port and the heartbeat file of `runworker`: either, both or none, as its options say."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from pgonly_django.events import emit
from pgonly_django.worker import forked_child
from pgonly_django.worker.health.heartbeat_file import HeartbeatFile
from pgonly_django.worker.health.http import Request, Response
from pgonly_django.worker.health.routes import Handler, respond, routes_of
from pgonly_django.worker.health.server import Events, HealthServer
from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.options import EVERYWHERE
from pgonly_django.worker.timers import NEVER

AGAIN_SECONDS = 1.0  # after an error that no other code has caught
JOIN_SECONDS = 2.0
# See worker/inbox.py: a descriptor that was closed must not stay in it.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Health:
    """A loop of selectors drives it: wait for sockets() until next_deadline(), then call handle() with what is ready.

    `port` 0 or None: no server. Raises OptionError when the port cannot be opened, or the file not be written.
    """

    def __init__(self, host: str = EVERYWHERE, port: int | None = None, file: str | None = None) -> None:
        self.snapshot: Callable[[], Snapshot] = Snapshot  # until there is a worker
        self.host = host
        self.routes = routes_of(self._now)  # by path and method; others may add theirs
        self.server = HealthServer(host, port, self._respond) if port else None
        try:
            self.file = HeartbeatFile(file) if file else None
        except BaseException:
            self.forget()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_route(self, method: str, path: str, handler: Handler) -> None:
        self.routes.setdefault(path, {})[method] = handler

    @property
    def is_on(self) -> bool:
        return self.server is not None or self.file is not None

    @property
    def address(self) -> str | None:
        """Where it answers, for people."""
        if self.server is None:
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server.port}"

    def sockets(self) -> Events:
        """By file descriptor, the events of `selectors` to wait for."""
        return {} if self.server is None else self.server.sockets()

    def next_deadline(self) -> float:
        """When to call handle() although nothing is ready, as time.monotonic(); infinite: never."""
        of_server = NEVER if self.server is None else self.server.next_deadline()
        return min(of_server, NEVER if self.file is None else self.file.next_deadline())

    def handle(self, ready: Events) -> None:
        """It does not block."""
        if self.server is not None:
            self.server.handle(ready)
        if self.file is not None and time.monotonic() >= self.file.next_deadline():
            self.file.touch_if_due(is_live=self.snapshot().why_not_live() is None)

    def forget(self) -> None:
        """Close the sockets of this process alone: for a forked child."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def close(self) -> None:
        """No answers any more; the file is removed. Twice is once."""
        self.forget()
        if self.file is not None:
            self.file.remove()
            self.file = None

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """Drive it from a thread; at the end it is closed."""
        thread = HealthThread(self) if self.is_on else None
        if thread is not None:
            thread.start()
        try:
            yield
        finally:
            if thread is not None:
                thread.end()
            self.close()

    def _now(self) -> Snapshot:
        return self.snapshot()

    def _respond(self, request: Request) -> Response:
        return respond(self.routes, request)


class HealthThread(threading.Thread):
    """For a process whose main thread has another loop."""

    def __init__(self, health: Health) -> None:
        super().__init__(name="pgonly-health", daemon=True)
        self._health = health
        self._waker, self._woken = socket.socketpair()  # the end of one ends the wait at the other
        forked_child.detach(self._waker)
        forked_child.detach(self._woken)
        self._is_over = False

    def run(self) -> None:
        while not self._is_over:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - an error must not end the answers
                emit(
                    "worker.health_failed", f"The health port: {error!r}", level=logging.ERROR, exc_info=True
                )
                time.sleep(AGAIN_SECONDS)

    def end(self) -> None:
        self._is_over = True
        with suppress(OSError):
            self._waker.shutdown(socket.SHUT_RDWR)
        if self.is_alive():
            self.join(JOIN_SECONDS)
        self._waker.close()
        self._woken.close()

    def _turn(self) -> None:
        health = self._health
        ready = wait(health.sockets() | {self._woken.fileno(): selectors.EVENT_READ}, health.next_deadline())
        if not self._is_over:
            health.handle(ready)


def wait(sockets: Events, until: float) -> Events:
    """Those that are ready, at time.monotonic() `until` at the latest."""
    with _Selector() as selector:
        for descriptor, events in sockets.items():
            selector.register(descriptor, events)
        seconds = None if until == NEVER else max(until - time.monotonic(), 0.0)
        return {key.fd: events for key, events in selector.select(seconds)}
