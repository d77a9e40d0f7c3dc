"""A file whose time says that the workers live, for probes that can only look at files."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.worker.timers import NEVER

TOUCH_SECONDS = 5.0


class HeartbeatFile:
    """Raises OptionError when the file cannot be written. Later failures are logged, once until it succeeds again."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - a job may change the current directory
        self._next = 0.0
        self._has_failed = False
        try:
            self._touch()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OptionError(f"--heartbeat-file {path} cannot be written: {reason}.") from error

    def next_deadline(self) -> float:
        return self._next

    def touch_if_due(self, *, is_live: bool) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TOUCH_SECONDS
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

    def remove(self) -> None:
        self._next = NEVER
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - beside os.open()

    def _touch(self) -> None:
        # Without waiting, in case it is a pipe.
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.path, flags, 0o644)
        try:
            os.utime(self.path)
        finally:
            os.close(descriptor)
