"""The demo's child processes: started with logs of their own, and ended whatever happens to the demo."""

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


class ChildDied(Exception):  # noqa: N818 - what happened, in a word
    """A child ended by itself. Carries the end of its log."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        tail = log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()
        super().__init__(f"The {name} ended with exit code {code}. The end of {log}:\n{tail}")


class Children:
    """Use it with `with`: on leaving, also by an exception or SIGTERM, every child is stopped and waited for.

    After a SIGKILL nobody can stop them: they see the end of the pipe that only the demo holds, and leave by
    themselves. Each child leads a session of its own, so a Ctrl-C in the terminal reaches the demo alone.
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
        """Start `manage.py *arguments`. Returns its pid. A child of that name that ended is replaced."""
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

    def start_worker(self, queue: str) -> int:
        """Start a worker of one queue; it leaves well before stop() loses its patience. Returns its pid."""
        return self.start(
            "worker",
            "runworker",
            "--queues",
            queue,
            "--threads",
            "2",
            "--grace-seconds",
            str(STOP_SECONDS / 2),
        )

    def kill(self, name: str) -> None:
        """SIGKILL, as an instance that vanishes."""
        child = self._running.pop(name)
        child.kill()
        child.wait()

    def ended(self, name: str) -> int | None:
        """Its exit code; None while it runs."""
        return self._running[name].poll()

    def check(self) -> None:
        """Raises ChildDied when a child ended by itself."""
        for name in self._running:
            code = self.ended(name)
            if code is not None:
                raise ChildDied(name, code, self.log(name))

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to who is still there after 10 s."""
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
