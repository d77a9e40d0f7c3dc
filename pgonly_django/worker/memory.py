"""How much memory processes take, and when a fresh one is to take the place of this one. It is known on Linux only."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.worker.options import WorkerOptions

LOOK_SECONDS = 1.0
KB_PER_MB = 1024
FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def resident_bytes(pid: int) -> int | None:
    """What of the process is in memory, with what it shares with others. None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def own_rss_mb() -> float | None:
    resident = resident_bytes(os.getpid())
    return None if resident is None else resident / KB_PER_MB**2


class ProcessMemory(NamedTuple):
    """In MB. `rss`: all pages of the process that are in memory. `own`: those that no other process uses. `pss`: its
    own, and of each shared page its share."""

    rss: float
    own: float
    pss: float


def memory_of(pid: int) -> ProcessMemory | None:
    with suppress(OSError, KeyError):
        fields = {name: int(kb) for name, kb in FIELD.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())}
        own = fields["Private_Clean"] + fields["Private_Dirty"]
        return ProcessMemory(fields["Rss"] / KB_PER_MB, own / KB_PER_MB, fields["Pss"] / KB_PER_MB)
    return None


def emit_memory(pids: Iterable[int]) -> None:
    """The mean over the processes of a supervisor, once they are ready."""
    found = [each for each in map(memory_of, pids) if each is not None]
    if not found:
        return
    rss, own, pss = (mean(values) for values in zip(*found, strict=True))
    message = (
        f"{len(found)} processes are ready. Memory of each: {rss:.0f} MB (Rss), of which {rss - own:.0f} MB are shared "
        f"and {own:.0f} MB its own; {pss:.0f} MB (Pss) with its part of what is shared."
    )
    emit("worker.processes_ready", message, processes=len(found), rss_mb=rss)


class Retirement:
    """When this process is to be replaced: after --max-jobs-per-process, or above --max-memory-mb."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self._next_look = 0.0

    @property
    def is_possible(self) -> bool:
        return self.options.max_jobs_per_process is not None or self.options.max_memory_mb is not None

    def reason(self, *, is_used_up: bool) -> str | None:
        """None: the process continues. `is_used_up`: it has claimed all the jobs that it may claim."""
        jobs, memory = self.options.max_jobs_per_process, self.options.max_memory_mb
        if is_used_up:
            return f"{jobs} job(s) claimed (--max-jobs-per-process {jobs})"
        now = time.monotonic()
        if memory is not None and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            taken = own_rss_mb()
            if taken is not None and taken > memory:
                return f"{taken:.0f} MB taken (--max-memory-mb {memory:g})"
        return None


def refuse_too_little_memory(options: WorkerOptions) -> None:
    """Raises OptionError where a process takes more before its first job than it may: each one would be replaced at
    once."""
    taken = own_rss_mb()
    if options.max_memory_mb is not None and taken is not None and taken > options.max_memory_mb:
        raise OptionError(
            f"--max-memory-mb {options.max_memory_mb:g} is less than the {taken:.0f} MB that the process takes before "
            "its first job. Leave room for the jobs."
        )
