"""What the schedules plug into the worker: they are enqueued exactly when they are due. Between two due times no
statement is sent, and where there are no schedules none at all: a NOTIFY says when one is made or changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.db import Error

from pgonly_django.database import notify
from pgonly_django.duties import NEVER, Duty, Workplace, in_seconds
from pgonly_django.events import emit
from pgonly_django.models.schedule import CONFIRM_EVERY
from pgonly_django.plugins import Plugin
from pgonly_django.scheduling.due import DueSchedules
from pgonly_django.scheduling.settings import declare, needs_confirming
from pgonly_django.tasks.registry import import_tasks

BLIND_SECONDS = 30.0  # without LISTEN: how long a new or changed schedule may stay unseen
# Between two tries while the schedules cannot be read: the first, each twice as long as the one before, to the longest.
FIRST_TRY_SECONDS, LONGEST_TRY_SECONDS = 0.5, 30.0
LONGEST_WAIT_SECONDS = 3600.0  # this machine's clock and the database's may drift apart


class RunSchedules(Duty):
    """Declares what has to be declared, and enqueues what is due. Where code of the project hangs in a schedule,
    another run continues with the others, and this one ends when that code returns."""

    name = "Schedules"
    hears = (notify.SCHEDULES,)
    enqueues = is_first = True

    def __init__(self, workplace: Workplace) -> None:
        super().__init__(workplace)
        self.needed_at = 0.0  # the next tick, as far as is known; NEVER without any
        self._due = DueSchedules(workplace.database, self._go_on)
        self._has_imported = False
        self._failure = ""  # the present one, which is logged once
        self._try_seconds = FIRST_TRY_SECONDS
        self._declare_at = 0.0
        self._present: object = None  # the run that counts: not one that hangs

    def _go_on(self) -> None:
        self._present = None
        self.workplace.go_on(self)

    def run(self) -> float:
        """Does what is due. After a schedule in it has hung it comes again at once, since that has its next tick."""
        run = self._present = object()
        try:
            return self._run(lambda: run is not self._present)
        except BaseException:
            if run is self._present:
                raise
            return 0.0

    def _run(self, is_replaced: Callable[[], bool]) -> float:
        if not self._has_imported:
            self._has_imported = True
            import_tasks()
        if time.monotonic() >= self._declare_at:
            self._declare()
        seconds = self._due.run(lambda: self.workplace.is_over() or is_replaced())
        if is_replaced():
            return 0.0
        self._failure, self._try_seconds = "", FIRST_TRY_SECONDS
        self.needed_at = NEVER if seconds is None else time.monotonic() + seconds
        waits = [in_seconds(self._declare_at), NEVER if self.workplace.listens() else BLIND_SECONDS]
        if seconds is not None:
            waits.append(min(seconds, LONGEST_WAIT_SECONDS))
        return max(min(waits), 0.0)

    def _declare(self) -> None:
        database = self.workplace.database
        self._due.known = declare(database, self.workplace.worker_id, self.workplace.lease_for)
        again = CONFIRM_EVERY.total_seconds() if needs_confirming(database) else NEVER
        self._declare_at = time.monotonic() + again

    def failed(self, error: BaseException) -> float:
        """Says so once, and tries again ever more seldom."""
        failure, known = f"{type(error).__name__}: {str(error).strip()}", self._failure
        self._failure = failure
        if failure != known:
            message = f"The schedules cannot be read, trying again: {failure}"
            is_away = isinstance(error, Error)
            emit("scheduling.unread", message, level=logging.WARNING, exc_info=not is_away)
        pause, self._try_seconds = self._try_seconds, min(self._try_seconds * 2, LONGEST_TRY_SECONDS)
        self.needed_at = time.monotonic() + pause
        return pause


class SchedulingPlugin(Plugin):
    duties = (RunSchedules,)
