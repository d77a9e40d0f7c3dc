"""What comes in the middle of something else: Ctrl-C, the exception of a signal handler."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def interrupted_in(seconds, error=KeyboardInterrupt):
    """The error in the main thread so many seconds from now."""
    with raised_by_handler(signal.SIGALRM, error):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def raised_by_handler(number, error):
    """Where the signal arrives, its handler raises the error."""

    def interrupt(*_):
        raise error

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)


class Interrupted:
    """A value in whose pickling, or in whose unpickling, SIGUSR1 arrives: at the first time, and never again."""

    comes = False

    def __init__(self, to_be_pickled=False):
        self.to_be_pickled = to_be_pickled

    def __reduce__(self):
        if self.to_be_pickled:
            interrupt()
        return unpickled, ()

    def __eq__(self, other):
        return type(other) is Interrupted

    __hash__ = None


def interrupt():
    if Interrupted.comes:
        Interrupted.comes = False
        signal.raise_signal(signal.SIGUSR1)


def unpickled():
    interrupt()
    return Interrupted()


class AbortError(Exception):
    pass


@contextlib.contextmanager
def aborted_once():
    """The next Interrupted raises the AbortError of a signal handler."""
    Interrupted.comes = True
    try:
        with raised_by_handler(signal.SIGUSR1, AbortError):
            yield
    finally:
        Interrupted.comes = False
