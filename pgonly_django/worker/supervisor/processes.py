"""The processes of a supervisor: how they are started and told to end, what is known of them, and their places.

They are forked, so that they share the memory of what is loaded, or spawned by the same command. A fork copies one
thread: locks that other threads hold at that moment, in Python or in a C library, stay locked in the child forever. So
a process with other threads is not forked unless `--start-method fork` asks for it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from django.utils import autoreload

from pgonly_django.events import emit
from pgonly_django.worker import forked_child
from pgonly_django.worker.status import Status, WorkerState
from pgonly_django.worker.supervisor.channel import Channel
from pgonly_django.worker.timers import NEVER

# For a spawned child: the number of its end of the channel, and its name.
CHILD_VARIABLE = "_PGONLY_WORKER_CHILD"
# Held back while a child has no handlers yet: they would end it, or reach the handlers of its parent.
OF_THE_TERMINAL = (signal.SIGINT, signal.SIGHUP)
STOP_SIGNALS = (*OF_THE_TERMINAL, signal.SIGTERM, signal.SIGQUIT)
# The libraries of macOS may start threads that Python does not see.
FORK_IS_SAFE_HERE = sys.platform != "darwin"
# A process that ends so soon after its start was of no use: the next one in its place waits, longer each time.
QUICK_SECONDS, LASTING_SECONDS = 10.0, 60.0
LONGEST_BACKOFF_SECONDS = 60.0


class Child(NamedTuple):
    """What a process of a supervisor knows of itself."""

    name: str
    channel: Channel
    ends_at: float | None  # of --max-seconds, which count from the supervisor's start; time.monotonic()


@dataclass(eq=False)
class Process:
    """What the supervisor knows of a process. Times are time.monotonic()."""

    name: str
    pid: int
    channel: Channel
    how: str  # "forked" or "spawned"
    started_at: float = field(default_factory=time.monotonic)
    status: Status | None = None
    retires_for: str | None = None  # why it claims nothing more, and ends after its jobs are finished
    is_known_to_retire: bool = False
    is_told_to_stop: bool = False
    kill_at: float = NEVER  # when it is told to stop and still there
    killed_for: str | None = None  # why the supervisor has killed it
    holds_nothing: bool = False  # it has told that all its jobs have gone back
    is_out_of_time: bool = False  # its --max-seconds leave no time for the jobs that there are
    silent_seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def was_ready(self) -> bool:
        return self.status is not None and self.status.state is not WorkerState.STARTING

    def hear(self) -> None:
        """Takes note of what it has told."""
        for message in self.channel.receive():
            self.silent_seconds = 0.0
            with suppress(ValueError, KeyError, TypeError):  # a job has written into the socket
                self.status = Status.from_dict(message["status"])
                self.retires_for = message.get("retire", self.retires_for)
                self.holds_nothing = message.get("holds_nothing", False)
                self.is_out_of_time = message.get("is_out_of_time", False)

    def send(self, number: int) -> None:
        """Sends a signal. The process exists until it is waited for, so that its pid is not another process's."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self, reason: str) -> None:
        self.killed_for = reason
        self.send(signal.SIGKILL)
        message = f"{self} is killed: {reason}."
        emit("worker.process_killed", message, level=logging.ERROR, worker=self.name, pid=self.pid)

    def say_retiring(self) -> None:
        running = self.status.running if self.status is not None else 0
        what = f"finishes its {running} job(s) and ends" if running else "ends"
        message = f"{self} {what}, another one takes its place: {self.retires_for}."
        reason = self.retires_for
        emit("worker.process_retiring", message, worker=self.name, pid=self.pid, reason=reason)

    def was_of_no_use(self, now: float) -> bool:
        """Returns whether it ends too soon; one that retires has been of use where it has claimed jobs."""
        had_jobs = self.status is not None and self.status.running + self.status.jobs_done > 0
        is_quick = not self.was_ready or now - self.started_at < QUICK_SECONDS
        return is_quick and not (self.retires_for is not None and had_jobs)


@dataclass(eq=False)
class Place:
    """One of the N places. `start_at`: when its next process starts; NEVER while it has one or gets none."""

    name: str
    start_at: float = 0.0
    has_begun: bool = False  # a process was started here before
    failures: int = 0  # processes in a row that were of no use

    def back_off(self, now: float) -> float:
        """Starts no process for 1, 2, 4 ... 60 s. Returns the number of seconds."""
        pause: float = min(2.0**self.failures, LONGEST_BACKOFF_SECONDS)
        self.failures += 1
        self.start_at = now + pause
        return pause


# Starting.


def has_other_threads() -> bool:
    """Returns whether there are other threads, in Python or in a C library."""
    with suppress(OSError):
        return len([*Path("/proc/self/task").iterdir()]) > 1
    return threading.active_count() > 1


def forks(method: str) -> bool:
    """Returns whether the next process is forked. Asked at each start: a library may have started a thread since."""
    return method == "fork" or (method == "auto" and FORK_IS_SAFE_HERE and not has_other_threads())


def fork(name: str, ends_at: float | None, live: Callable[[Child], None]) -> Process:
    """Forks a process. The child calls `live` and ends after it, with stop signals held back. Raises OSError."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # or the child would print the same again
    with _pair() as (ours, theirs), held_back(STOP_SIGNALS):
        with warnings.catch_warnings():  # of other threads, which who asked for a fork has thought of
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            ours.close()
            try:
                live(Child(name, theirs, ends_at))
            except BaseException as error:  # noqa: BLE001 - the parent's stack lies below: nothing may come back to it
                forked_child.leave(error)
            forked_child.leave()
    return Process(name, pid, ours, "forked")


def spawn(name: str, ends_at: float | None) -> Process:
    """Starts the same command again, which finds out that it is a child: see as_child(). Raises OSError."""
    with _pair() as (ours, theirs), held_back(OF_THE_TERMINAL):
        facts = json.dumps({"fd": theirs.fileno(), "name": name, "ends_at": ends_at})
        # The mask of signals outlives exec; the child lifts it. SIGTERM may end it while it is being loaded.
        process = subprocess.Popen(  # noqa: S603 - the command of this process
            autoreload.get_child_arguments(),
            env={**os.environ, CHILD_VARIABLE: facts},
            pass_fds=[theirs.fileno()],
        )
    process.returncode = 0  # the supervisor waits for the pid itself
    return Process(name, process.pid, ours, "spawned")


@contextmanager
def _pair() -> Iterator[tuple[Channel, Channel]]:
    """Yields a pair. The end of the child is closed here in any case, ours where it could not be started."""
    ours, theirs = Channel.pair()
    try:
        yield ours, theirs
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def as_child() -> Child | None:
    """Returns what a supervisor has told this process; None for one that was started by a person. Its own children are
    not told: call it once."""
    facts = json.loads(os.environ.pop(CHILD_VARIABLE, "null"))
    return facts and Child(facts["name"], Channel(socket.socket(fileno=facts["fd"])), facts["ends_at"])


@contextmanager
def held_back(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_stop_signals_through() -> None:
    """Called in a child after it has its handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


# Ends.


def ending_of(code: int | None) -> str:
    """Says how a process ended. `code` is subprocess's: -9 for SIGKILL; None: the system does not tell."""
    if code is None:
        return "ended, the system does not tell how"
    if code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        return f"died of {signal.Signals(-code).name}"
    return f"died of signal {-code}"


def reap(pids: list[int], *, all_of_them: bool) -> dict[int, int | None]:
    """Waits for the processes that have ended, by their pids; as process 1 for all that have been left to it, too."""
    ended = {pid: code for pid, code in map(_wait_for, pids) if pid}
    while all_of_them and (found := _wait_for(-1))[0] > 0:
        ended[found[0]] = found[1]
    return ended


def _wait_for(pid: int) -> tuple[int, int | None]:
    """Returns (pid, code); the pid is 0 while it lives. The code is None where another process has waited for it, or
    where the system keeps none (SIGCHLD is ignored)."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return pid, None
    return ended, os.waitstatus_to_exitcode(status)


# Memory.

KB_PER_MB = 1024
FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def memory_of(pid: int) -> tuple[float, float, float] | None:
    """Returns MB: all pages of the process that are in memory (Rss); those that no other process uses; and its pages
    with its share of each shared page (Pss)."""
    with suppress(OSError, KeyError):
        fields = {name: int(kb) for name, kb in FIELD.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())}
        own = fields["Private_Clean"] + fields["Private_Dirty"]
        return fields["Rss"] / KB_PER_MB, own / KB_PER_MB, fields["Pss"] / KB_PER_MB
    return None


def emit_memory(pids: Iterable[int]) -> None:
    """Reports the mean over the processes of a supervisor, when they are ready."""
    found = [each for each in map(memory_of, pids) if each is not None]
    if not found:
        return
    rss, own, pss = (mean(values) for values in zip(*found, strict=True))
    message = (
        f"{len(found)} processes are ready. Memory of each: {rss:.0f} MB (Rss), of which {rss - own:.0f} MB are shared "
        f"and {own:.0f} MB private; {pss:.0f} MB (Pss) with its part of what is shared."
    )
    emit("worker.processes_ready", message, processes=len(found), rss_mb=rss)
