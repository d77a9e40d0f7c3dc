"""How much memory processes take. It is known on Linux only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from pgonly_django.events import emit

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
