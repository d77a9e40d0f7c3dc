"""The demo's child processes. Each writes to its own log, and ends however the demo ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from example_project.screening.demo.child import STOP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import FrameType, TracebackType

CHILD = "example_project.screening.demo.child"
LOG_TAIL_CHARACTERS = 3000
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class ChildDied(Exception):  # noqa: N818 - the name says what happened
    """A child ended by itself. Carries the end of its log."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        tail = log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()
        super().__init__(f"The {name} ended with exit code {code}. The end of {log}:\n{tail}")


class Children:
    """A context manager: on exit, also by an exception or SIGTERM, it stops every child and waits for it.

    When the demo gets SIGKILL, the pipe that only the demo holds closes, and the children stop themselves. Each
    child leads its own process group, so Ctrl-C in the terminal reaches only the demo.
    """

    def __init__(self, root: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self.root, self.logs, self.environment = root, logs, dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._reader, self._writer = os.pipe()
        for number in ENDING_SIGNALS:
            self._handlers[number] = signal.signal(number, _leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (*ENDING_SIGNALS, signal.SIGINT):
            self._handlers.setdefault(number, signal.signal(number, signal.SIG_IGN))
        self.stop()
        os.close(self._reader)
        os.close(self._writer)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # it came from signal.signal()

    def start(self, name: str, *arguments: str) -> int:
        """Start `manage.py *arguments`; returns its pid. It replaces an ended child of the same name."""
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", CHILD, *arguments],
                cwd=self.root,
                stdin=self._reader,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        return self._running[name].pid

    def start_worker(self, queues: str, name: str = "worker", threads: int = 2) -> int:
        """Start a worker of these queues; returns its pid. Its grace time is half of the time that stop() waits."""
        grace = f"--grace-seconds={STOP_SECONDS / 2}"
        return self.start(name, "runworker", f"--queues={queues}", f"--threads={threads}", grace)

    def kill(self, name: str) -> None:
        """Send SIGKILL, as when an instance is killed without warning."""
        child = self._running.pop(name)
        child.kill()
        child.wait()

    def ended(self, name: str) -> int | None:
        """The child's exit code. None while it runs."""
        return self._running[name].poll()

    def check(self) -> None:
        """Raises ChildDied when a child ended by itself."""
        for name in self._running:
            code = self.ended(name)
            if code is not None:
                raise ChildDied(name, code, self.log(name))

    def stop(self) -> None:
        """Send SIGTERM to all children, and SIGKILL to those that still run after 10 s."""
        for child in self._running.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._running.values():
            try:
                child.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._running.clear()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
