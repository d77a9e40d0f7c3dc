"""A process that a job forks is not a worker: it has the signal handlers from before the worker, opens separate
connections, and ends where it would come back out of the job.

multiprocessing's fork and os.fork() copy everything: handlers that would swallow the child's SIGTERM, and sockets of
the worker. Whatever the child sends there, even the end of a session, breaks what the worker has under way.
"""

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from weakref import WeakSet

import psycopg
from django.db import connections
from django.db.backends.signals import connection_created

from pgonly_django.database import wake_urls
from pgonly_django.database.connect import OPENED

is_child = False  # whether this process was forked from a worker
_is_worker = False
_thread = threading.local()  # its mask of signals, while it forks
_handlers: dict[int, Any] = {}  # of signals, as they were before the worker
_connections: WeakSet[psycopg.Connection[Any]] = WeakSet()  # Django's
_sockets: WeakSet[socket.socket] = WeakSet()  # others of the worker
_kept: list[Any] = []  # what belongs to the parent: not to be used, closed or garbage-collected here


@contextmanager
def as_worker(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Makes the process a worker within the block: its children get these signal handlers, and end as leave() says."""
    global _is_worker  # noqa: PLW0603 - a fact of the process
    _is_worker = True
    _handlers.update(handlers)
    connection_created.connect(_note, dispatch_uid=__name__)
    try:
        yield
    finally:
        _be_no_worker()


def _be_no_worker() -> None:
    global _is_worker  # noqa: PLW0603 - likewise
    _is_worker = False
    _handlers.clear()
    connection_created.disconnect(dispatch_uid=__name__)


def detach(each: socket.socket) -> None:
    """Lets no forked child have this socket: a child outlives its worker, and would keep a port taken."""
    _sockets.add(each)


def leave(error: BaseException | None = None) -> NoReturn:
    """Ends a child that has done its work or comes back out of a job, as at the end of a Python script. The job's end
    is its parent's to write, and open connections are its parent's to close.
    """
    with suppress(Exception):
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()
    wake_urls.flush()
    code: Any = error.code if isinstance(error, SystemExit) else error
    os._exit(code if isinstance(code, int) else int(code is not None))


def _note(connection: Any, **_: Any) -> None:
    """Receiver of connection_created."""
    if connection.vendor == "postgresql":
        _connections.add(connection.connection)


def _before_fork() -> None:
    """Holds signals back until the child has its handlers: before that they would be lost, or reach the worker's."""
    if _is_worker:
        _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _after_fork_in_parent() -> None:
    mask = vars(_thread).pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    global is_child  # noqa: PLW0603 - likewise
    if _is_worker:
        is_child = True
        signal.set_wakeup_fd(-1)  # or a signal of the child's would wake its parent
        for number, handler in _handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _be_no_worker()
        _detach_sockets()
        _forget_django_connections()
    _after_fork_in_parent()


def _detach_sockets() -> None:
    """Detaches the sockets. Otherwise the server would keep a killed worker's transactions, and their locks, for as
    long as this child lives. The numbers stay taken, so that a cursor from before the fork meets no other socket there.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    ours: tuple[Any, ...] = (*_connections, *OPENED, *_sockets)
    for connection in ours:
        _kept.append(connection)
        with suppress(psycopg.Error, OSError):  # closed already
            os.dup2(nowhere, connection.fileno(), inheritable=False)
    os.close(nowhere)


def _forget_django_connections() -> None:
    """Makes the next query of this thread connect."""
    for wrapper in connections.all(initialized_only=True):
        _kept.append(wrapper)
        pools = getattr(wrapper, "_connection_pools", {})  # of the class, by alias
        _kept.append(pools.pop(wrapper.alias, None))
        del connections[wrapper.alias]


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
