"""What holds in a forked child."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable


def told_by_a_child(value: Callable[[], object]) -> str:
    """`str(value())` in a forked child. Nothing where the child waits for too long."""
    heard, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: what servers do
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # ends the child where it waits for the lock
            try:
                os.write(tell, str(value()).encode())
            finally:
                os._exit(0)
    os.close(tell)
    told = os.read(heard, 100)
    os.waitpid(child, 0)
    os.close(heard)
    return told.decode()


def restore_sigint() -> None:
    """Tests that run in the background of a shell ignore SIGINT, and their children inherit that. As preexec_fn it is
    safe beside threads: it sets a signal and takes no lock."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
