"""Starts processes: forked, so that they share the memory of what is loaded, or spawned by the same command.

A fork copies one thread. Locks that other threads hold at that moment, in Python or in a C library, stay locked in the
child for ever, so a process with other threads is not forked unless `--start-method fork` asks for it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from django.core.management.base import CommandError
from django.utils import autoreload

from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.supervisor.channel import Channel

# For a spawned child: the number of its end of the channel, and its name.
CHILD_VARIABLE = "_PGONLY_WORKER_CHILD"
# Held back while a child has no handlers yet: they would end it, or reach the handlers of its parent.
OF_THE_TERMINAL = (signal.SIGINT, signal.SIGHUP)
STOP_SIGNALS = (*OF_THE_TERMINAL, signal.SIGTERM, signal.SIGQUIT)
FORK_IS_SAFE_HERE = (
    sys.platform != "darwin"
)  # the system's libraries may start threads that Python does not see


FORK_WITH_RELOAD = (
    "--reload has a thread that watches the code, so that its processes cannot be forked. Leave out "
    "--start-method fork."
)


def options_of_child(options: WorkerOptions, name: str) -> WorkerOptions:
    """The supervisor counts the idle seconds, over all processes."""
    return replace(options, name=name, processes=1, max_idle_seconds=None)


class Child(NamedTuple):
    """What a process of a supervisor knows of itself."""

    name: str
    channel: Channel
    ends_at: float | None  # of --max-seconds, which count from the supervisor's start; time.monotonic()


class Started(NamedTuple):
    pid: int
    channel: Channel
    how: str  # "forked" or "spawned"


def other_threads() -> list[str]:
    """The names of all threads but this one; those that Python does not know are "native"."""
    known = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    with suppress(OSError):
        count = len(list(Path("/proc/self/task").iterdir()))
        known += ["native"] * (count - 1 - len(known))
    return known


def forks(method: str) -> bool:
    """Whether the next process is forked. Asked at each start: a library may have started a thread since."""
    return method == "fork" or (method == "auto" and FORK_IS_SAFE_HERE and not other_threads())


def fork(
    name: str, ends_at: float | None, serve: Callable[[Child], None], close_inherited: Callable[[], None]
) -> Started:
    """Raises OSError. In the child `close_inherited` and `serve` are called, and then it ends."""
    ours, theirs = Channel.pair()

    def live() -> None:
        ours.close()
        close_inherited()
        serve(Child(name, theirs, ends_at))

    try:
        pid = fork_to(live)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Started(pid, ours, "forked")


def fork_to(child: Callable[..., None], *args: Any) -> int:
    """The pid of a child that calls `child(*args)` and ends. Stop signals are held back in it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # or the child would print the same once more
    with held_back(STOP_SIGNALS):
        with warnings.catch_warnings():  # of other threads, which who asked for a fork has thought of
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _end_after(child, *args)
    return pid


def _end_after(child: Callable[..., None], *args: Any) -> NoReturn:
    code = 1
    try:
        child(*args)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - the parent's stack lies below: nothing may come back to it
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(code)


def spawn(name: str, ends_at: float | None) -> Started:
    """The same command once more, which finds out that it is a child: see as_child(). Raises OSError."""
    ours, theirs = Channel.pair()
    facts = json.dumps({"fd": theirs.fileno(), "name": name, "ends_at": ends_at})
    try:
        # The mask of signals outlives exec; the child lifts it. SIGTERM may end it while it is being loaded.
        with held_back(OF_THE_TERMINAL):
            process = subprocess.Popen(  # noqa: S603 - the command of this process
                autoreload.get_child_arguments(),
                env={**os.environ, CHILD_VARIABLE: facts},
                pass_fds=[theirs.fileno()],
            )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    process.returncode = 0  # the supervisor waits for the pid itself
    return Started(process.pid, ours, "spawned")


def as_child() -> Child | None:
    """What a supervisor has told this process; None for one that was started by a person. Its own children are not
    told: call it once. Raises CommandError."""
    text = os.environ.pop(CHILD_VARIABLE, "")
    if not text:
        return None
    try:
        facts = json.loads(text)
        ends_at = None if facts["ends_at"] is None else float(facts["ends_at"])
        return Child(str(facts["name"]), Channel(socket.socket(fileno=facts["fd"])), ends_at)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CommandError(
            f"{CHILD_VARIABLE} is set by runworker itself; unset it. It holds {text!r}."
        ) from error


@contextmanager
def held_back(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_stop_signals_through() -> None:
    """In a child, once it has its handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
