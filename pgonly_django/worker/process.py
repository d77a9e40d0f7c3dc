"""What a worker changes in its process, and restores at its end for a caller that continues: the signals that stop it,
and more; the end of the process; and what --reload watches."""

import gc
import logging
import os
import queue
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Self

from django.apps import apps
from django.db import connections
from django.utils.autoreload import autoreload_started

from pgonly_django import embedded
from pgonly_django.database import wake_urls
from pgonly_django.plugins import plugins
from pgonly_django.worker import forked_child
from pgonly_django.worker.django_connections import connections_of_worker
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.stopping import Shutdown
from pgonly_django.worker.supervisor.supervisor import Supervisor
from pgonly_django.worker.terminal import Terminal, logging_to
from pgonly_django.worker.timers import NEVER

# A waiting thread asks for the interpreter this often: finishes and claims share it with the jobs.
SWITCH_INTERVAL_SECONDS = 0.001
COLLECT_AFTER = 10_000  # new objects; by default 700, or 2,000 from Python 3.13 on
CHILDREN_SECONDS = 1.0
SLOTS_SECONDS = 1.0  # in which slots of limiters are given back that a job still holds
WAKE_SECONDS = 2.0
FLUSH_SECONDS = 5.0  # of streams and handlers of the log
LAST_SECONDS = 0.1  # of the time for leaving; for what takes no time
OVERRUN = b"The worker did not end in time, and was ended: its jobs continue elsewhere.\n"


class StopSignals:
    """Brings SIGTERM, SIGINT, SIGQUIT and SIGHUP to a worker or a supervisor, from the main thread alone."""

    def __init__(self, *, is_early: bool, is_supervised: bool = False) -> None:
        """`is_early`: while there is no worker yet a signal ends the process. Without a handler it would not end pid 1
        of a container. `is_supervised`: the terminal signals the whole group, and the supervisor says what to do."""
        self.worker: WorkerLoop | Supervisor | None = None
        self.before: dict[int, Any] = {}
        self._is_early = is_early
        # Not SIG_IGN: the programs that jobs start would ignore it too.
        of_terminal = (lambda *_: None) if is_supervised else self._handle
        self._handlers = {
            signal.SIGTERM: self._handle,
            signal.SIGQUIT: self._handle,
            signal.SIGINT: of_terminal,
            signal.SIGHUP: of_terminal,
        }

    def __enter__(self) -> Self:
        if self._is_early:
            self._set_handlers()
        return self

    def serve(self, worker: WorkerLoop | Supervisor) -> None:
        self.worker = worker
        if not self._is_early:
            self._set_handlers()
        if self.before:
            worker.inbox.wake_on_signals()

    def _set_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
            del self._handlers[signal.SIGHUP]
        self.before = {
            number: signal.signal(number, handler) or signal.SIG_DFL
            for number, handler in self._handlers.items()
        }

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.inbox.close()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        worker = self.worker
        if worker is None:  # there is nothing to give back yet
            raise SystemExit(0)
        again = number == signal.SIGINT and worker.is_stopping
        if again or number == signal.SIGQUIT:
            worker.stop_now()
        else:
            worker.stop()


@contextmanager
def set_up(worker: WorkerLoop, signals: StopSignals, terminal: Terminal) -> Iterator[None]:
    """Prepares the process for `worker`: signals, connections, logging, switch interval, garbage collector,
    children."""
    with ExitStack() as undo:
        signals.serve(worker)
        undo.enter_context(connections_of_worker(worker.id))
        undo.enter_context(logging_to(terminal))
        undo.enter_context(forked_child.as_worker(signals.before))
        undo.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        _collect_seldom(undo)
        yield


def _collect_seldom(undo: ExitStack) -> None:
    """Makes the garbage collector run rarely. Each job makes a dozen objects that it counts, so that its collections,
    which walk through all of Django again and again, took a fifth of the time of short jobs. What a project has set
    stays."""
    if not gc.get_freeze_count():  # a supervisor has done so before it forked this process, or a project has
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)
    first, *others = gc.get_threshold()
    if 0 < first < COLLECT_AFTER:
        gc.set_threshold(COLLECT_AFTER, *others)
        undo.callback(gc.set_threshold, first, *others)


def fill_closed_streams() -> None:
    """Fills closed streams. A file or socket that is opened gets the lowest free number. One with the number of a
    closed stream would take what is printed there, by C code and by children as well."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def started_at() -> float:
    """Returns when this process began, by time.monotonic(); now, where the system does not say."""
    try:
        facts = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(facts[19]) / os.sysconf("SC_CLK_TCK")  # field 22: clock ticks after the system's start
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        age = 0.0
    return time.monotonic() - max(age, 0.0)


def end_in_time(at: float, shutdown: Shutdown | None = None) -> None:
    """Ends this process at `at` (time.monotonic()), or when `shutdown` says, if it still lives then: its main thread
    may wait for a database that does not answer. Nothing here takes a lock, which that thread may hold."""

    def end() -> None:
        asked: queue.SimpleQueue[None] = queue.SimpleQueue() if shutdown is None else shutdown.asked
        ends_at = at
        while (left := ends_at - time.monotonic()) > 0:
            with suppress(queue.Empty):
                asked.get(timeout=min(left, threading.TIMEOUT_MAX))
            ends_at = min(at, NEVER if shutdown is None else shutdown.leaves_at)
        with suppress(OSError):
            os.write(2, OVERRUN)
        os._exit(ExitCode.BROKEN)

    threading.Thread(target=end, name="pgonly-end", daemon=True).start()


def leave(code: int, by: float = NEVER) -> NoReturn:
    """Ends the process even when a stuck job's thread never returns, at `by` (time.monotonic()) at the latest."""
    by -= LAST_SECONDS
    _end_children(by)
    # Of the jobs that this worker gave back.
    wake_urls.flush(max(min(WAKE_SECONDS, by - time.monotonic()), 0.0))
    _try_all(connections.close_all)
    # Not here: a handler of the log that hangs in another thread has locked itself, or its stream. Half of what is left
    # is for the slots.
    streams = [stream.flush for stream in (sys.stdout, sys.stderr) if stream is not None]
    _do_in_time(min(FLUSH_SECONDS, (by - time.monotonic()) / 2), *streams, logging.shutdown)
    # So late because calls that are cut off go on until the process ends, beside those of whoever has the slots next.
    _do_in_time(min(SLOTS_SECONDS, by - time.monotonic()), _end_plugins)
    _try_all(embedded.stop_unused)
    os._exit(code)


def _do_in_time(seconds: float, *calls: Callable[[], object]) -> None:
    """Calls all, and waits for them this long at most."""
    thread = threading.Thread(target=_try_all, args=calls, daemon=True)
    with suppress(RuntimeError):  # the system starts no more threads
        thread.start()
        thread.join(max(seconds, 0.0))


def _end_plugins() -> None:
    _try_all(*(plugin.end_process for plugin in plugins()))


def _try_all(*calls: Callable[[], object]) -> None:
    """Calls all, whatever is broken: the process ends."""
    for call in calls:
        with suppress(Exception):
            call()


def _end_children(by: float) -> None:
    """Ends what jobs started with multiprocessing: the released jobs may run elsewhere by now. Python does it at its
    exit, which os._exit() skips; it also waits for those that are not daemons."""
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing is not None else []
    for child in children:
        child.terminate()
    deadline = min(time.monotonic() + CHILDREN_SECONDS, by)
    for child in children:
        child.join(max(deadline - time.monotonic(), 0.0))
        child.kill()


def watch_apps() -> None:
    """Watches all modules of the project's apps, under --reload. The supervisor itself imports few."""
    autoreload_started.connect(_watch, dispatch_uid=__name__)


def _watch(sender: Any, **_: Any) -> None:
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sys.base_prefix}
    for app in apps.get_app_configs():
        if not any(Path(app.path).is_relative_to(place) for place in installed):
            sender.watch_dir(app.path, "**/*.py")
