"""The status of a worker: at any moment for its supervisor, the health port and the heartbeat file, and at the end as
the exit code of its process; and how systemd is told, where a unit has Type=notify: see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Self

from pgonly_django.wording import duration

# The loop turns at least every 60 s. One that has not for this long is frozen, or does not get the interpreter.
STALLED_SECONDS = 90.0
BYTES_PER_MB = 1024**2


class ExitCode(IntEnum):
    """The exit codes. Errors before the start end with Django's 1, wrong flags with 2."""

    STOPPED = 0  # asked to, or --burst, --max-jobs, --max-idle-seconds came true
    BROKEN = 1  # the loop raised something: what ran is rescued after its leases have expired
    REPLACE_ME = 3  # start a fresh process: this one has retired, or stuck jobs hold every slot


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"  # every connection is closed until the next due time or a wake-up
    AWAY = "away"  # PostgreSQL does not answer
    STOPPING = "stopping"  # it claims nothing more


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status. Times are time.monotonic(), which is the same clock in all processes of a machine."""

    worker_id: str
    name: str
    pid: int
    state: WorkerState
    threads: int
    running: int  # jobs that were claimed and whose end is not written
    jobs_done: int  # runs that ended here, whatever came of them
    jobs_failed: int  # of these, those whose job is failed now
    jobs_released: int  # runs that went back to the queue at a stop
    stuck_slots: int  # held by jobs that ignored their interruption
    turned_at: float  # when the main loop turned last
    idle_since: float | None  # None while it holds jobs

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the status of which asdict() made this; unknown keys are left out. Raises ValueError or KeyError for
        anything that is not a status."""
        known = {each.name: facts[each.name] for each in fields(cls)}
        return cls(**{**known, "state": WorkerState(known["state"])})

    @property
    def turned_seconds_ago(self) -> float:
        return max(time.monotonic() - self.turned_at, 0.0)

    @property
    def is_stalled(self) -> bool:
        """Whether the main loop does not turn any more."""
        return self.turned_seconds_ago > STALLED_SECONDS


def state_of(*, is_stopping: bool, is_started: bool, is_away: bool, is_asleep: bool = False) -> WorkerState:
    """Returns the state that counts where several apply."""
    if is_stopping:
        return WorkerState.STOPPING
    if not is_started:
        return WorkerState.STARTING
    if is_asleep:
        return WorkerState.ASLEEP
    return WorkerState.AWAY if is_away else WorkerState.READY


def resident_bytes(pid: int) -> int | None:
    """Returns the bytes of the process that are in memory, with what it shares with others. None where the system does
    not say: it is known on Linux only."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def own_rss_mb() -> float | None:
    resident = resident_bytes(os.getpid())
    return None if resident is None else resident / BYTES_PER_MB


# PostgreSQL is there, or is left alone on purpose: a job that is enqueued runs.
SERVING = (WorkerState.READY, WorkerState.ASLEEP)


@dataclass(frozen=True)
class Statuses:
    """The statuses of one worker, or of those of a supervisor: the last one that each has told."""

    workers: tuple[Status, ...] = ()
    starting: int = 0  # processes that have told none yet
    replaced: int = 0  # processes that were started in place of one that ended
    is_stopping: bool = False
    memory: dict[int, int] = field(default_factory=dict)  # resident bytes by process id; those that are known

    @classmethod
    def of(cls, statuses: Iterable[Status], **facts: Any) -> Self:
        workers = tuple(statuses)
        memory = {each.pid: resident_bytes(each.pid) for each in workers}
        return cls(workers, memory={pid: size for pid, size in memory.items() if size is not None}, **facts)

    @property
    def running(self) -> int:
        return sum(each.running for each in self.workers)

    def by_state(self) -> dict[str, int]:
        """Counts the processes in each state."""
        counts = Counter(each.state for each in self.workers)
        counts[WorkerState.STARTING] += self.starting
        return {state.value: counts[state] for state in WorkerState}

    def why_not_live(self) -> str | None:
        """Returns None while every main loop turns."""
        late = [
            f"The main loop of {each.name} has not turned for {duration(each.turned_seconds_ago)}."
            for each in self.workers
            if each.is_stalled
        ]
        return " ".join(late) or None

    def why_not_ready(self) -> str | None:
        """Returns None while at least one worker would run a job that is enqueued now."""
        if self.is_stopping:
            return "Stopping."
        if any(each.state in SERVING and not each.is_stalled for each in self.workers):
            return None
        if stalled := self.why_not_live():
            return stalled
        counts = self.by_state()
        if counts[WorkerState.AWAY]:
            return "PostgreSQL does not answer."
        return "Starting." if counts[WorkerState.STARTING] or not self.workers else "Stopping."


# Systemd.

STARTED_STATES = (WorkerState.READY, WorkerState.ASLEEP, WorkerState.AWAY)
TELL_SECONDS = 1.0
MICROSECONDS = 1_000_000


class Systemd:
    """Tells systemd, from one thread. tell() sends changes, and the keep-alive of WatchdogSec when due."""

    def __init__(self, address: str, watchdog_seconds: float | None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said: list[str] = []
        self._next_keep_alive = 0.0

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self | None:
        """Returns None outside of a unit with Type=notify. It takes the variables out: no child uses them."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        is_watched = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / MICROSECONDS if is_watched else None)

    @property
    def interval_seconds(self) -> float:
        """The longest time between two calls of tell()."""
        return min(TELL_SECONDS, self.watchdog_seconds / 4) if self.watchdog_seconds else TELL_SECONDS

    def tell(self, statuses: Sequence[Status], *, is_stopping: bool) -> None:
        """Tells `statuses`: those of all workers of this service that have told one."""
        lines = ["READY=1"] if any(each.state in STARTED_STATES for each in statuses) else []
        if is_stopping:
            lines.append("STOPPING=1")
        if statuses:
            running, done = sum(each.running for each in statuses), sum(each.jobs_done for each in statuses)
            lines.append(f"STATUS={len(statuses)} process(es), {running} job(s) running, {done} done")
        for line in lines:
            if line not in self._said:
                self._send(line)
        self._said = lines
        now = time.monotonic()
        stalled = any(status.is_stalled for status in statuses)
        if self.watchdog_seconds and not stalled and now >= self._next_keep_alive:
            self._next_keep_alive = now + self.watchdog_seconds / 2
            self._send("WATCHDOG=1")

    def _send(self, line: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(line.encode(), self._address)
