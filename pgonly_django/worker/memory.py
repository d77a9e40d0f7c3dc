"""How much memory a process takes."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

KB_PER_MB = 1024
FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


class Memory(NamedTuple):
    """In MB. `rss`: all pages of the process that are in memory. `own`: those that no other process uses. `pss`: its
    own, and of each shared page its share. The last two are None where the system does not tell."""

    rss: float
    own: float | None = None
    pss: float | None = None


def memory_of(pid: int) -> Memory | None:
    """None when there is no such process, or the system does not tell."""
    return _from_smaps(pid) or _from_ps(pid)


def resident_bytes(pid: int) -> int | None:
    """What of the process is in memory, with what it shares with others. None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def own_rss_mb() -> float | None:
    """Of this process, in MB."""
    resident = resident_bytes(os.getpid())
    if resident is not None:
        return resident / KB_PER_MB**2
    memory = _from_ps(os.getpid())
    return None if memory is None else memory.rss


def _from_smaps(pid: int) -> Memory | None:
    with suppress(OSError, KeyError):
        fields = {name: int(kb) for name, kb in FIELD.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())}
        own = fields["Private_Clean"] + fields["Private_Dirty"]
        return Memory(fields["Rss"] / KB_PER_MB, own / KB_PER_MB, fields["Pss"] / KB_PER_MB)
    return None


def _from_ps(pid: int) -> Memory | None:
    """Where there is no /proc, as on macOS."""
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 - fixed
        return Memory(int(done.stdout) / KB_PER_MB)
    return None
