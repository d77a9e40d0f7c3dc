"""The demo's progress: a bar in a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import time
from typing import TextIO

BAR_WIDTH = 40
CLEAR_LINE = "\r\x1b[2K"
PLAIN_LINE_EVERY_PERCENT = 10


class Terminal:
    def __init__(self, out: TextIO | None, total: int) -> None:
        self.out, self.total = out, total
        self._started_at = time.monotonic()
        self._is_tty = out is not None and out.isatty()
        self._shown_percent = -1

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.out is not None:
            self._write(f"{CLEAR_LINE if self._is_tty else ''}{text}\n")

    def show(self, done: int) -> None:
        """Show how many papers are done."""
        if self.out is None:
            return
        percent = 100 * done // self.total
        if self._is_tty:
            filled = BAR_WIDTH * done // self.total
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            self._write(f"{CLEAR_LINE}[{bar}] {self._numbers(done, percent)}")
        elif percent // PLAIN_LINE_EVERY_PERCENT > self._shown_percent // PLAIN_LINE_EVERY_PERCENT:
            self._shown_percent = percent
            self._write(f"{self._numbers(done, percent)}\n")

    def close(self) -> None:
        """End the line of the bar."""
        if self._is_tty:
            self._write("\n")

    def _numbers(self, done: int, percent: int) -> str:
        seconds = time.monotonic() - self._started_at
        return f"{done} of {self.total} papers, {percent} %, {seconds:.0f} s"

    def _write(self, text: str) -> None:
        assert self.out is not None
        self.out.write(text)
        self.out.flush()
