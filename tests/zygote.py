"""A process that has imported Django and psycopg, and forks for each Python that the tests start: that takes a third of
the CPU. The fork reads the settings and imports this package as a fresh interpreter does; it has its own arguments,
environment, streams and session, takes signals and is killed as any process is.

What is imported before must not read the settings, but for workers whose environment is the usual one: prepare().
Tests of the start itself start an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
BEFOREHAND = (
    "django.contrib.auth.hashers", "django.contrib.auth.password_validation",
    "django.contrib.staticfiles.finders", "django.core.cache", "django.core.handlers.exception",
    "django.core.management.base", "django.core.serializers.json", "django.db.backends.postgresql.base",
    "django.db.migrations.autodetector", "django.db.migrations.executor", "cronsim", "environ", "statistics",
)  # fmt: skip
LARGEST = 200_000  # bytes of a message
# What an interpreter reads when it starts is that of the zygote.
READ_AT_START = (
    "PYTHONPATH",
    "PYTHONDEVMODE",
    "PYTHONWARNINGS",
    "PYTHONHASHSEED",
    "PYTHONMALLOC",
    "PYTHONUTF8",
)


class Process:
    """As much of subprocess.Popen as the tests need."""

    def __init__(self, zygote: Zygote, pid: int, args: list[str]) -> None:
        self.pid, self.args, self.returncode = pid, args, None
        self._zygote = zygote

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._zygote.code_of(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The tests' side."""

    def __init__(self, prepared: dict[str, str] | None = None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(theirs.fileno()), *(["prepared"] if prepared else [])],
            cwd=ROOT, env=prepared, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()

    def start(
        self, command: list[str], *, env: dict[str, str], cwd: Path, output: int, errors: int
    ) -> Process:
        """`command`: what stands behind the interpreter, a script, `-m` and a module, or `-c` and a program, with its
        arguments."""
        number = next(self._numbers)
        order = pickle.dumps((number, command, env, cwd))
        with self._lock, Path(os.devnull).open("rb") as nothing:
            socket.send_fds(self._socket, [order], [nothing.fileno(), output, errors])
            while (started := self._hear()) is None or started[1] != number:
                self._end_late(started)
        return Process(self, started[0], [sys.executable, *command])

    def code_of(self, pid: int) -> int | None:
        """None while it runs."""
        with self._lock:
            while select.select([self._socket], [], [], 0)[0]:
                self._end_late(self._hear())
            return self._codes.pop(pid, None)

    def _end_late(self, started: tuple[int, int] | None) -> None:
        """It was started for a test that a timeout has ended meanwhile."""
        if started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started[0], signal.SIGKILL)

    def end(self) -> None:
        self._socket.close()
        self._process.wait(30)

    def _hear(self) -> tuple[int, int] | None:
        """The pid and the number of a start. The code of a process that has ended is noted."""
        said = self._socket.recv(LARGEST)
        assert said, "The process that forks for the tests has ended."
        pid, number, code = pickle.loads(said)
        if number is not None:
            return pid, number
        self._codes[pid] = code
        return None


_zygotes: dict[str, Zygote] = {}
OF_THE_TEST = "PYTEST_CURRENT_TEST"  # differs each time, and no settings read it


def start(
    command: list[str],
    *,
    env: dict[str, str],
    output: IO[Any],
    errors: IO[Any],
    cwd: Path = ROOT,
    prepared: bool = False,
) -> Process:
    """See Zygote.start(). All tests of a process share one zygote, and one more for each environment with `prepared`:
    that one has read its settings and imported a worker, so a fork of it costs a third."""
    key = repr(sorted((name, env[name]) for name in env.keys() - {OF_THE_TEST})) if prepared else ""
    if key not in _zygotes:
        _zygotes[key] = Zygote(env if prepared else None)
        atexit.register(_zygotes[key].end)
    return _zygotes[key].start(command, env=env, cwd=cwd, output=output.fileno(), errors=errors.fileno())


def run(
    command: list[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT, timeout: float = 150
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run() does it with an interpreter, by default in the root folder, and with its output as text."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(command, env=env or dict(os.environ), cwd=cwd, output=output, errors=errors)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, output.read(), errors.read())


def can_fork(env: dict[str, str]) -> bool:
    """Whether an interpreter with this environment would start as the zygote has."""
    return all(env.get(name) == os.environ.get(name) for name in READ_AT_START)


def serve(orders: socket.socket) -> tuple[list[str], dict[str, str], Path, list[int]]:
    """Fork for each order. In a fork it returns: what it is to be. In the zygote it ends the process with the tests."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    while True:
        readable = select.select([orders, read], [], [])[0]
        if read in readable:
            os.read(read, 4096)
            tell_ends(orders)
        if orders in readable:
            order, streams, _, _ = socket.recv_fds(orders, LARGEST, 3)
            if not order:
                os._exit(0)
            number, command, env, cwd = pickle.loads(order)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                return command, env, cwd, streams
            orders.send(pickle.dumps((pid, number, None)))
            for each in streams:
                os.close(each)


def tell_ends(orders: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            orders.send(pickle.dumps((ended[0], None, os.waitstatus_to_exitcode(ended[1]))))


def become(env: dict[str, str], cwd: Path, streams: list[int]) -> None:
    os.setsid()
    os.chdir(cwd)
    sys.path[0] = str(cwd)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(env)
    ways = [way for way in env.get("PYTHONPATH", "").split(os.pathsep) if way]
    sys.path[1:] = [*ways, *(way for way in sys.path[1:] if way not in ways)]
    if env.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)


def execute(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(command[1], "<string>", "exec"), program.__dict__)
    else:
        sys.argv = list(command)
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")


def prepare() -> None:
    import django

    django.setup()
    import_module("pgonly_django.management.commands.runworker")


def main() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in BEFOREHAND:
        import_module(name)
    if "prepared" in sys.argv:
        prepare()
    gc.collect()
    gc.freeze()
    command, env, cwd, streams = serve(orders)
    orders.detach()  # its number is closed below
    become(env, cwd, streams)
    execute(command)


if __name__ == "__main__":
    main()
