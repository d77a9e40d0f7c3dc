"""When to look at the database: for ready jobs, and (see duties/promotion.py) for due ones. Times are time.monotonic().

A NOTIFY may stand for others that were held back for COALESCE_SECONDS, so a second look follows each, and after that
ever rarer ones: NOTIFY tells of new rows, but not of a row that was locked at the look and is free by now.
"""

from pgonly_django.database import notify
from pgonly_django.worker.connection import JobsListener
from pgonly_django.worker.options import WorkerOptions

LOOK_AGAIN_SECONDS = notify.COALESCE_SECONDS + 0.002
# The first pause between two looks, and how much longer the next ones are, with LISTEN and without. The second look
# after a NOTIFY takes the first of the pauses, so that the next looks come 1, 5 and 21 seconds later.
FIRST_PAUSE_SECONDS, GROWTH = 0.25, 4
BLIND_FIRST_PAUSE_SECONDS, BLIND_GROWTH = 0.1, 2
REFUSED_SECONDS = 0.1
NEVER = float("inf")


class Pauses:
    """Growing pauses, up to the longest that the options allow."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        self._options = options
        self._listener = listener
        self.restart()

    def restart(self) -> None:
        self._next = FIRST_PAUSE_SECONDS if self._listener.listens else BLIND_FIRST_PAUSE_SECONDS

    def next(self) -> float:
        listens = self._listener.listens
        pause = min(self._next, self._options.longest_pause(listening=listens))
        self._next = pause * (GROWTH if listens else BLIND_GROWTH)
        return pause
