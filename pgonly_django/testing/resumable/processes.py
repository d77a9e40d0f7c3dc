"""The test's side of the child process: starts it, gives it orders, reads what it answers and what it prints."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from pgonly_django.testing.resumable.errors import NotTestableError
from pgonly_django.testing.resumable.orders import Ended, Modules, Order, Setup

# What the child runs first: it can import what the test's process can, and the job's code has nothing to read on stdin.
START = """
import os, pickle, sys
commands = os.fdopen(os.dup(0), "rb")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[:] = pickle.load(commands)
from pgonly_django.testing.resumable.child import main
main(commands, int(sys.argv[1]))
"""
OUTPUT_KEPT = 6000  # bytes
LATE_SECONDS = 10.0  # after a child should have ended a run by itself
START_SECONDS = 120.0
END_SECONDS = 10.0


class ChildProcess:
    """One that runs orders, started when it is needed."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._modules = setup, Modules({})
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._forks = False
        self.output = b""  # the end of what the last run printed

    def is_for(self, setup: Setup) -> bool:
        return pickle.dumps(self._setup) == pickle.dumps(setup)

    def run(self, order: Order, modules: Modules) -> Ended:
        """Carry out the order. Raises NotTestableError where the child cannot even begin."""
        if self._process is None or modules != self._modules:
            self._prepare(modules)
        process = self._process
        assert process is not None
        self.output = b""
        late_at = time.monotonic() + order.seconds
        try:
            with suppress(BrokenPipeError):  # it has died, which the answer tells
                self._send(order)
            answer = self._answer(late_at + LATE_SECONDS)
        except BaseException:  # Ctrl-C, or the timeout of a test
            self.end()
            raise
        if answer is not None:
            return Ended(**answer)
        is_late = time.monotonic() > late_at
        code = self.end()
        if self._forks:
            raise NotTestableError(f"The child process ended (exit code {code}).{self.printed}")
        return Ended(code, is_late)

    @property
    def printed(self) -> str:
        """The end of what the last run printed, for a message."""
        text = self.output.decode(errors="replace").strip()
        return f"\nIt printed:\n{text}" if text else ""

    def _prepare(self, modules: Modules) -> None:
        if self._process is None:
            self._start()
        self._modules, self.output = modules, b""
        with suppress(BrokenPipeError):
            self._send(modules)
        answer = self._answer(time.monotonic() + START_SECONDS)
        if answer is None:
            self.end()
            raise NotTestableError(
                "The child process, which imports your settings and the task's module, could not start."
                + self.printed
            )
        self._forks = answer["forks"]

    def _start(self) -> None:
        self._answers, theirs = os.pipe()
        self._process = subprocess.Popen(  # noqa: S603 - this Python, our own text
            [sys.executable, "-c", START, str(theirs)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[theirs], start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        with suppress(BrokenPipeError):
            self._send(sys.path, self._setup)

    def _send(self, *messages: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        for message in messages:
            pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()

    def _answer(self, give_up_at: float) -> dict[str, Any] | None:
        """The next answer. None when the process has ended, or nothing comes until then."""
        assert self._process is not None
        assert self._process.stdout is not None
        output, line = self._process.stdout.fileno(), b""
        open_files = [self._answers, output]
        while not line.endswith(b"\n"):
            readable = select.select(open_files, [], [], max(give_up_at - time.monotonic(), 0))[0]
            if not readable:
                return None
            if output in readable and not self._drain(output):
                open_files.remove(output)
            if self._answers in readable:
                more = os.read(self._answers, 4096)
                if not more:
                    return None
                line += more
        while select.select(open_files, [], [], 0)[0] and self._drain(output):
            pass
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _drain(self, output: int) -> bool:
        """Keep the end of what is printed. False once all who could print have ended."""
        printed = os.read(output, 65536)
        self.output = (self.output + printed)[-OUTPUT_KEPT:]
        return bool(printed)

    def end(self) -> int:
        """End the child, and what it runs. Returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # the child ends its run, and then itself
        self._read_to_the_end(process.stdout.fileno())
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS if self._forks else 0.0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        process.stdout.close()
        os.close(self._answers)
        return code

    def _read_to_the_end(self, output: int) -> None:
        give_up_at = time.monotonic() + 1.0
        while (left := give_up_at - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
            if not self._drain(output):
                return


_kept: list[ChildProcess] = []


def child_for(setup: Setup) -> ChildProcess:
    """The child of the last call, where that was for the same settings: to start one takes a second. It ends with this
    process."""
    if not (_kept and _kept[0].is_for(setup)):
        end_all()
        _kept.append(ChildProcess(setup))
    return _kept[0]


def end_all() -> None:
    while _kept:
        _kept.pop().end()


atexit.register(end_all)
os.register_at_fork(after_in_child=_kept.clear)
