"""What a worker changes in its process: put back when it ends, for a caller that goes on afterwards."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn, Self

from django.conf import settings
from django.db import connections
from django.db.backends.signals import connection_created

from pgonly_django.compat import tasks_logger
from pgonly_django.worker import forked_child
from pgonly_django.worker.connection_cleanup import notice_dead_clients, noticing_dead_servers
from pgonly_django.worker.connection_options import connections_named
from pgonly_django.worker.worker import WorkerLoop

# A waiting thread asks for the interpreter this often: finishes and claims share it with the jobs.
SWITCH_INTERVAL_SECONDS = 0.001
CHILDREN_SECONDS = 1.0


class Signals:
    """SIGTERM, SIGINT, SIGQUIT and SIGHUP on their way to a worker. In a thread other than the main one: nothing."""

    NAMES = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")

    def __init__(self, *, is_early: bool) -> None:
        """`is_early`: while there is no worker yet a signal ends the process, as pid 1 of a container too, which
        hears of no signal without a handler."""
        self.worker: WorkerLoop | None = None
        self.before: dict[int, Any] = {}
        self._is_early = is_early

    def __enter__(self) -> Self:
        if self._is_early:
            self._listen()
        return self

    def serve(self, worker: WorkerLoop) -> None:
        self.worker = worker
        if not self._is_early:
            self._listen()
        if self.before:
            worker.inbox.wake_on_signals()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup
            self.before[number] = signal.signal(number, self._hear)

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.inbox.close()
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _hear(self, number: int, _: Any) -> None:
        worker = self.worker
        if worker is None:  # there is nothing to give back yet
            raise SystemExit(0)
        again = number == signal.SIGINT and worker.shutdown.is_asked
        if again or number == getattr(signal, "SIGQUIT", None):
            worker.stop_now()
        else:
            worker.stop()


class TerminalHandler(logging.StreamHandler[Any]):
    """Our log lines where no logging is configured. That its stream is closed or broken is no reason to say more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


@contextmanager
def made_ready(worker: WorkerLoop, signals: Signals, terminal: Any) -> Iterator[None]:
    """The process as `worker` needs it: signals, connections, logging, switch interval, and what its children get."""
    with ExitStack() as undo:
        signals.serve(worker)
        connection_created.connect(notice_dead_clients)
        undo.callback(connection_created.disconnect, notice_dead_clients)
        undo.enter_context(noticing_dead_servers())
        undo.enter_context(connections_named(worker.id))
        undo.enter_context(_logging_to(terminal))
        forked_child.keep_apart(signals.before)
        undo.callback(forked_child.no_worker_any_more)
        undo.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        yield


@contextmanager
def _logging_to(terminal: Any) -> Iterator[None]:
    """Show our log lines on the terminal unless the project has configured loggers for them."""
    logger = logging.getLogger("pgonly_django")
    if logger.hasHandlers():
        yield
        return
    handler, level = TerminalHandler(terminal), logger.level
    silenced = _django_says_the_same()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    tasks_logger.disabled = tasks_logger.disabled or silenced
    try:
        yield
    finally:
        tasks_logger.disabled = tasks_logger.disabled and not silenced
        logger.removeHandler(handler)
        logger.setLevel(level)


def _django_says_the_same() -> bool:
    """With DEBUG Django's own logging shows each start and end of a task, and each last traceback, on the terminal.
    With DEBUG off it mails the errors to the admins instead. The backport's logger has no handler at all: logging
    itself shows its errors."""
    is_as_it_was_made = tasks_logger.level == logging.NOTSET and not tasks_logger.handlers
    is_shown = settings.DEBUG or not tasks_logger.hasHandlers()
    return is_shown and is_as_it_was_made and not tasks_logger.disabled


def fill_closed_streams() -> None:
    """What is opened gets the lowest free number: a socket with that of a closed stream takes what is printed there,
    by C code and by children as well."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def leave(code: int) -> NoReturn:
    """End the process even when a stuck job's thread never returns."""
    _end_children()
    streams = [stream.flush for stream in (sys.stdout, sys.stderr) if stream is not None]
    for tidy in (connections.close_all, *streams, logging.shutdown):
        with suppress(Exception):  # whatever is broken here, the process ends
            tidy()
    os._exit(code)


def _end_children() -> None:
    """End what jobs started with multiprocessing: the released jobs may run elsewhere by now. Python does it at its
    exit, which os._exit() skips; it also waits for those that are no daemons."""
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing is not None else []
    for child in children:
        child.terminate()
    deadline = time.monotonic() + CHILDREN_SECONDS
    for child in children:
        child.join(max(deadline - time.monotonic(), 0.0))
        child.kill()
