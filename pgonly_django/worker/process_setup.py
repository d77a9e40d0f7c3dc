"""What a worker changes in its process, and puts back at its end for a caller that goes on; and the process's end."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

from django.conf import settings
from django.db import connections

from pgonly_django.compat import tasks_logger
from pgonly_django.worker import forked_child
from pgonly_django.worker.connection_options import connections_of_worker
from pgonly_django.worker.stop_signals import StopSignals
from pgonly_django.worker.worker import WorkerLoop

# A waiting thread asks for the interpreter this often: finishes and claims share it with the jobs.
SWITCH_INTERVAL_SECONDS = 0.001
CHILDREN_SECONDS = 1.0


class TerminalHandler(logging.StreamHandler[Any]):
    """Shows our log lines where no logging is configured. A closed or broken stream is no reason to say more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


@contextmanager
def set_up(worker: WorkerLoop, signals: StopSignals, terminal: Any) -> Iterator[None]:
    """The process as `worker` needs it: signals, connections, logging, switch interval, and what its children get."""
    with ExitStack() as undo:
        signals.serve(worker)
        undo.enter_context(connections_of_worker(worker.id))
        undo.enter_context(_logging_to(terminal))
        forked_child.prepare(signals.before)
        undo.callback(forked_child.undo_prepare)
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
    """A file or socket that is opened gets the lowest free number. One with the number of a closed stream would take
    what is printed there, by C code and by children as well."""
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
