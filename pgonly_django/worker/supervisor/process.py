"""What the supervisor knows of its processes, and of the places that they take."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from pgonly_django.worker.status import Status, WorkerState
from pgonly_django.worker.supervisor.starting import Started
from pgonly_django.worker.timers import NEVER

# A process that ends so soon after its start was of no use: the next one in its place waits, longer each time.
QUICK_SECONDS, LASTING_SECONDS = 10.0, 60.0
LONGEST_BACKOFF_SECONDS = 60.0


@dataclass(eq=False)
class Process:
    """Times are time.monotonic()."""

    name: str
    started: Started
    started_at: float
    status: Status | None = None
    was_ready: bool = False
    retires_for: str | None = None  # why it claims nothing more, and ends once its jobs are finished
    is_retiring: bool = False  # which the supervisor has noticed, or has asked it for
    is_told_to_stop: bool = False
    kill_at: float = NEVER  # when it is told to stop and still there
    killed_for: str | None = None  # why the supervisor has killed it
    holds_nothing: bool = False  # it has told that all its jobs have gone back
    is_out_of_time: bool = False  # its --max-seconds leave no time for the jobs that there are
    silent_seconds: float = 0.0

    @property
    def pid(self) -> int:
        return self.started.pid

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    def hear(self) -> None:
        """Take note of what it has told."""
        for message in self.started.channel.receive():
            self.silent_seconds = 0.0
            with suppress(ValueError, KeyError, TypeError):  # a job has written into the socket
                if "status" in message:
                    self.status = Status.from_dict(message["status"])
                    self.was_ready = self.was_ready or self.status.state is not WorkerState.STARTING
            if isinstance(message.get("retire"), str):
                self.retires_for = message["retire"]
            self.is_out_of_time = self.is_out_of_time or message.get("is_out_of_time") is True
            self.holds_nothing = self.holds_nothing or message.get("holds_nothing") is True

    def send(self, number: int) -> None:
        """It exists until it is waited for, so that its pid is no other process's."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self, reason: str) -> None:
        self.killed_for = reason
        self.send(signal.SIGKILL)

    def is_quick(self, now: float) -> bool:
        """Whether it ends too soon to have been of use."""
        return not self.was_ready or now - self.started_at < QUICK_SECONDS

    def backs_off(self, now: float) -> bool:
        """Whether the next one in its place has to wait: not after one that retires and has claimed jobs."""
        had_jobs = self.status is not None and self.status.running + self.status.jobs_done > 0
        return self.is_quick(now) and not (self.retires_for is not None and had_jobs)


@dataclass(eq=False)
class Place:
    """One of the N. `start_at` is when the next process starts here; NEVER while there is one, or when none is to."""

    name: str
    process: Process | None = None
    start_at: float = 0.0
    has_begun: bool = False  # a process was started here before
    failures: int = 0  # processes in a row that ended quickly

    def vacate(self, now: float, *, backs_off: bool) -> float:
        """The next process may start after a pause, which is returned: of 1, 2, 4 ... 60 s when it backs off."""
        process, self.process = self.process, None
        if process is not None and now - process.started_at >= LASTING_SECONDS:
            self.failures = 0
        pause = 0.0
        if backs_off:
            pause = min(2.0**self.failures, LONGEST_BACKOFF_SECONDS)
            self.failures += 1
        self.start_at = now + pause
        return pause

    def close(self) -> None:
        self.process, self.start_at = None, NEVER


def ending_of(code: int | None) -> str:
    """How a process ended, in words. `code` as subprocess has it: -9 for SIGKILL; None: the system does not tell."""
    if code is None:
        return "ended, the system does not tell how"
    if code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        return f"died of {signal.Signals(-code).name}"
    return f"died of signal {-code}"


def reap(pids: list[int], *, all_of_them: bool) -> dict[int, int | None]:
    """Wait for those that have ended, by their pids; as process 1 for all that have been left to it, too."""
    ended: dict[int, int | None] = {}
    for pid in pids:
        found = _wait_for(pid)
        if (
            found is None
        ):  # somebody else has waited for it, or children are not kept here (SIGCHLD is ignored)
            ended[pid] = None
        elif found[0] == pid:
            ended[pid] = found[1]
    while all_of_them and (found := _wait_for(-1)) is not None and found[0] != 0:
        ended[found[0]] = found[1]
    return ended


def _wait_for(pid: int) -> tuple[int, int] | None:
    """(pid, code); (0, 0) while there is none; None when there is no such child."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return ended, os.waitstatus_to_exitcode(status) if ended else 0
