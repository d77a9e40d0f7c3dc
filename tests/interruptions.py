"""What comes in the middle of a wait: Ctrl-C."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def interrupted_in(seconds):
    """KeyboardInterrupt in the main thread so many seconds from now."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
