"""The health port and the heartbeat file of `runworker`: either, both or none, as its options say."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pgonly_django.database import wake_urls
from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.exposition import Metric, Source, exposition
from pgonly_django.worker.options import EVERYWHERE
from pgonly_django.worker.status import Status, Statuses
from pgonly_django.worker.timers import NEVER

if TYPE_CHECKING:  # the import takes milliseconds, which only a worker with a port needs
    from pgonly_django.worker.health.server import ProbeServer

TOUCH_SECONDS = 5.0
PROBE_SECONDS = 0.2
REFUSAL = (
    "Send a token in the header Authorization, signed with the SECRET_KEY of this worker, within a minute."
)


class PortTakenError(OptionError):
    """The port cannot be opened."""


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}

    @classmethod
    def of(cls, status: int, facts: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
        """Returns `facts` as JSON, in one line."""
        return cls(status, json.dumps(facts, default=str).encode() + b"\n", headers=headers or {})


def _reason_or_ok(name: str, reason: str | None, **facts: Any) -> Response:
    if reason is None:
        return Response.of(200, {name: True, **facts})
    return Response.of(503, {name: False, "reason": reason, **facts})


def live(seen: Statuses) -> Response:
    return _reason_or_ok("live", seen.why_not_live(), workers=[_shown(each) for each in seen.workers])


def _shown(status: Status) -> dict[str, Any]:
    """Returns times as seconds ago, for people: no other machine can read the clock of this one."""
    facts = {**asdict(status), "turned_seconds_ago": round(status.turned_seconds_ago, 3)}
    del facts["turned_at"], facts["idle_since"]
    return facts


def ready(seen: Statuses) -> Response:
    counts = {state: number for state, number in seen.by_state().items() if number}
    return _reason_or_ok("ready", seen.why_not_ready(), workers=counts)


def busy(seen: Statuses) -> Response:
    return Response.of(200 if seen.running else 503, {"busy": seen.running > 0, "running": seen.running})


def metrics(seen: Statuses) -> Response:
    return Response(200, exposition(METRICS, seen).encode(), CONTENT_TYPE)


# What is asked with GET; /wake is a POST.
ANSWERS: dict[str, Callable[[Statuses], Response]] = {
    "/": live,
    "/live": live,
    "/ready": ready,
    "/busy": busy,
    "/metrics": metrics,
}
PATHS = sorted([*ANSWERS, "/wake"])


class Health:
    """The health port and the heartbeat file. A loop drives it: wait for sockets() until next_deadline(), then call
    handle(). `port` 0 or None: no server. Raises OptionError when the port cannot be opened, or the file cannot be
    written.
    """

    def __init__(self, host: str = EVERYWHERE, port: int | None = None, file: str | None = None) -> None:
        self.statuses: Callable[[], Statuses] = Statuses  # until there is a worker
        self.wake: Callable[[], None] = lambda: None  # of the workers; for any thread
        self.host = host
        self.server = self._open(host, port) if port else None
        try:
            self.file = HeartbeatFile(file) if file else None
        except BaseException:
            self.forget()
            raise

    def _open(self, host: str, port: int) -> ProbeServer:
        from pgonly_django.worker.health.server import ProbeServer

        try:
            return ProbeServer(host, port, self.respond)
        except OSError as error:
            raise PortTakenError(
                f"--health-port {port} cannot be opened on {host}: {error.strerror or error}. Choose another port, or "
                "0 for none."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_on(self) -> bool:
        return self.server is not None or self.file is not None

    @property
    def address(self) -> str | None:
        """The address at which it answers, for people."""
        if self.server is None:
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server.server_address[1]}"

    def sockets(self) -> dict[int, int]:
        """Returns the events of `selectors` to wait for, by file descriptor."""
        return {} if self.server is None else {self.server.fileno(): EVENT_READ}

    def next_deadline(self) -> float:
        """Returns when to call handle() although nothing is ready, as time.monotonic(); infinite: never."""
        return NEVER if self.file is None else self.file.due_at

    def handle(self) -> None:
        """Answers a client that waits, in a thread, and touches the file when it is due. It does not block."""
        if self.server is not None:
            self.server.handle_request()
        if self.file is not None and time.monotonic() >= self.file.due_at:
            self.file.touch(is_live=self.statuses().why_not_live() is None)

    def respond(self, method: str, path: str, authorization: str = "") -> Response:
        """Returns the response to a request. It raises nothing."""
        try:
            return self._respond(method, path, authorization)
        except Exception as error:  # noqa: BLE001 - one answer that cannot be made ends no process
            message = f"{method} {path} of the health port failed: {error!r}"
            emit("worker.health_failed", message, level=logging.ERROR, exc_info=True)
            return Response.of(500, {"error": "The log says why."})

    def _respond(self, method: str, path: str, authorization: str) -> Response:
        if path not in PATHS:
            return Response.of(404, {"error": f"There is no {path} here. Known are: {', '.join(PATHS)}"})
        answer = ANSWERS.get(path)
        allowed = ("POST",) if answer is None else ("GET", "HEAD")
        if method not in allowed:
            names = ", ".join(allowed)
            return Response.of(405, {"error": f"{path} takes {names}."}, {"Allow": names})
        return self._wake(authorization) if answer is None else answer(self.statuses())

    def _wake(self, authorization: str) -> Response:
        """Answers POST /wake, which PGONLY["WAKE_URLS"] of other processes name."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not wake_urls.is_valid(token.strip()):
            return Response.of(401, {"error": REFUSAL}, {"WWW-Authenticate": "Bearer"})
        self.wake()
        return Response.of(202, {"woken": True})

    def end_clients(self) -> None:
        """Gives clients PROBE_SECONDS for their answers, and ends their threads: a process with others may not fork."""
        if self.server is not None:
            self.server.end_clients(PROBE_SECONDS)

    def forget(self) -> None:
        """Closes the sockets of this process alone: for a forked child."""
        if self.server is not None:
            self.server.forget()
            self.server = None

    def close(self) -> None:
        """Stops answering and removes the file. A second call does nothing."""
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.file is not None:
            with suppress(OSError):
                os.unlink(self.file.path)  # noqa: PTH108 - beside os.open()
            self.file = None


class HeartbeatFile:
    """A file whose time says that the workers are alive, for probes that can only look at files. Raises OptionError
    when it cannot be written. Later failures are logged, once until it succeeds again."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - a job may change the current directory
        self.due_at = 0.0
        self._has_failed = False
        try:
            self._touch()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OptionError(f"--heartbeat-file {path} cannot be written: {reason}.") from error

    def touch(self, *, is_live: bool) -> None:
        self.due_at = time.monotonic() + TOUCH_SECONDS
        if not is_live:
            return
        try:
            self._touch()
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                message = f"The heartbeat file {self.path} cannot be written: {error.strerror or error}"
                emit("worker.heartbeat_file_failed", message, level=logging.ERROR)
            self._has_failed = True

    def _touch(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK  # without waiting, in case it is a pipe
        os.close(os.open(self.path, flags, 0o644))
        os.utime(self.path)


# The figures of these workers in the text format of Prometheus.

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _idle_seconds(status: Status) -> float:
    since = status.idle_since
    return 0.0 if since is None else round(max(time.monotonic() - since, 0.0), 3)


WORKERS = Source("worker", "", lambda seen: (((each.name,), each) for each in seen.workers))
MEMORY = Source(
    "worker", "", lambda seen: (((each.name,), seen.memory.get(each.pid)) for each in seen.workers)
)
STATES = Source("state", "", lambda seen: (((state,), number) for state, number in seen.by_state().items()))

METRICS = (
    Metric("pgonly_workers", "Worker processes by state.", STATES, int),
    Metric("pgonly_workers_replaced_total", "Worker processes that were started in place of one that ended.",
           Source("", "", lambda seen: [((), seen)]), lambda seen: seen.replaced),
    Metric("pgonly_worker_threads", "Jobs that may run at a time.", WORKERS, lambda status: status.threads),
    Metric("pgonly_worker_running_jobs", "Jobs that were claimed and have not ended.",
           WORKERS, lambda status: status.running),
    Metric("pgonly_worker_jobs_done_total", "Runs that ended, whatever came of them.",
           WORKERS, lambda status: status.jobs_done),
    Metric("pgonly_worker_jobs_failed_total", "Runs that ended their job as failed.",
           WORKERS, lambda status: status.jobs_failed),
    Metric("pgonly_worker_jobs_released_total", "Runs that a stop gave back to the queue.",
           WORKERS, lambda status: status.jobs_released),
    Metric("pgonly_worker_stuck_slots", "Slots held by jobs that ignored their interruption.",
           WORKERS, lambda status: status.stuck_slots),
    Metric("pgonly_worker_last_turn_age_seconds", "Since the main loop turned last; above 90 it is stalled.",
           WORKERS, lambda status: round(status.turned_seconds_ago, 3)),
    Metric("pgonly_worker_idle_seconds", "Since a job ended or began last; 0 while jobs run.",
           WORKERS, _idle_seconds),
    Metric("pgonly_worker_resident_memory_bytes",
           "Resident memory of the process, with what it shares with others; on Linux.",
           MEMORY, lambda resident: resident),
)  # fmt: skip
