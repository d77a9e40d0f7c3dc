"""Counts what this process's threads read and wrote in one cache since the last flush (eviction.py)."""

import random
import threading
from dataclasses import dataclass

READS_PER_FLUSH = 1000
WRITES_PER_CLEANING = 1000
BYTES_PER_CLEANING = 32 * 1024 * 1024


@dataclass(slots=True)
class CacheCounts:
    reads: int = 0
    hits: int = 0
    misses: int = 0
    writes: int = 0
    written: int = 0  # bytes
    entries: int = 0  # added
    bytes: int = 0  # added


class Counters:
    def __init__(self, max_entries: int | None, max_bytes: int | None) -> None:
        self.bounded = bool(max_entries or max_bytes)
        self._writes_allowed = min(WRITES_PER_CLEANING, max(1, (max_entries or 10**9) // 50))
        self._bytes_allowed = max(1, (max_bytes or 10**18) // 200)
        self.reset()

    def reset(self) -> None:
        """Begins at 0. Called in a forked process, whose parent flushes its own counts."""
        self.counts = CacheCounts()
        self.lock = threading.Lock()
        # The first cleaning comes after a random share, so that processes that end after a few writes clean, too.
        self._writes_due = random.randint(1, self._writes_allowed)  # noqa: S311 - no secret
        self._bytes_due = self._bytes_allowed
        self._written_due = random.randint(1, BYTES_PER_CLEANING)  # noqa: S311 - no secret
        self._was_taken = False

    def read(self, *, hits: int, misses: int) -> bool:
        """Counts the reads of a call. Returns whether a flush is due."""
        with self.lock:
            counts = self.counts
            counts.reads += 1
            counts.hits += hits
            counts.misses += misses
            return counts.reads >= READS_PER_FLUSH

    def wrote(self, *, entries: int, size: int, written: int, writes: int = 1) -> bool:
        """Counts writes: new entries, the growth in bytes, and the bytes written. Returns whether a cleaning is due."""
        with self.lock:
            counts = self.counts
            counts.writes += writes
            counts.written += written
            counts.entries += entries
            counts.bytes += size
            due = (
                counts.writes >= self._writes_due
                or counts.bytes >= self._bytes_due
                or counts.written >= self._written_due
            )
            if due:  # for this writer only, not for all writers beside it
                self._written_due = counts.written + BYTES_PER_CLEANING
                self._writes_due = counts.writes + self._writes_allowed
                self._bytes_due = counts.bytes + self._bytes_allowed
            return due

    def removed(self, entries: int, size: int) -> bool:
        """Counts what was deleted. Returns whether other processes should know of so much before they evict."""
        with self.lock:
            counts = self.counts
            counts.entries -= entries
            counts.bytes -= size
            much = -counts.entries >= self._writes_allowed or -counts.bytes >= self._bytes_allowed
            return self.bounded and much

    def take(self) -> CacheCounts:
        """Returns the counts and begins at 0 again."""
        with self.lock:
            counts, self.counts = self.counts, CacheCounts()
            if not self._was_taken:  # on behalf of the processes that ended before they flushed
                counts.writes = max(counts.writes, self._writes_allowed)
            self._was_taken, self._bytes_due = True, self._bytes_allowed
            self._written_due = BYTES_PER_CLEANING
            # Random, or processes that began together would all flush at the same moment.
            self._writes_due = random.randint(-(-self._writes_allowed // 2), self._writes_allowed)  # noqa: S311
        return counts
