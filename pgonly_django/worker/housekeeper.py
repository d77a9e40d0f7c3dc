"""The housekeeper: one thread with the times of all duties (duties.py). It hands each duty that is due to a lane, whose
thread runs them one after the other; where a duty takes longer than LONG_SECONDS, another thread continues."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

from django.db import InterfaceError, OperationalError, connections

from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.connect import connect as open_connection
from pgonly_django.database.housekeeping import LOCK_WAIT
from pgonly_django.duties import (
    BETWEEN_BATCHES_SECONDS,
    BUSY_SECONDS,
    NEVER,
    Duty,
    Workplace,
    in_seconds,
    out_of_step,
    tried,
)
from pgonly_django.events import TakesEvents, emit
from pgonly_django.plugins import plugins
from pgonly_django.queue.duties import DUTIES as OF_QUEUE
from pgonly_django.tasks.duties import DUTIES as OF_TASKS
from pgonly_django.tasks.duties import declare
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.django_connections import close_pools
from pgonly_django.worker.inbox import WAKE, DutiesChecked, DutyDone, Notification
from pgonly_django.worker.lanes import Lane

LONG_SECONDS = 1.0
THREADS_AT_MOST = 16  # of duties that hang
KEEP_OPEN_SECONDS = 10.0  # a connection that was not used for so long is closed
AFTER_SLEEP_SECONDS = 10.0  # until the duties for which no worker wakes up
START_SECONDS, TRY_SECONDS = 30.0, 0.5  # for the database, at the start of a worker


def kinds() -> list[type[Duty]]:
    """Returns the duties of all rooms."""
    return [*OF_TASKS, *OF_QUEUE, *(kind for plugin in plugins() for kind in plugin.duties)]


class Housekeeper(threading.Thread):
    """Runs the duties. hear(), note_done() and `owes` are for the main loop, which the messages of `workplace` reach;
    the other methods are for any thread. Times are time.monotonic()."""

    def __init__(self, workplace: Workplace, duties: Sequence[type[Duty]] | None = None) -> None:
        super().__init__(name="pgonly-housekeeper", daemon=True)
        self._database, self._tell = workplace.database, workplace.tell
        place = replace(workplace, connect=self.connect, is_over=self.is_over, go_on=self.go_on)
        self.duties = [duty(place) for duty in (kinds() if duties is None else duties)]
        self.takes_events: TakesEvents = nullcontext  # those of the duties
        self._hearers = defaultdict[str, list[Duty]](list)
        for duty in self.duties:
            for kind in duty.hears:
                self._hearers[kind].append(duty)
        self._lane = Lane(
            "pgonly-duties", threads=THREADS_AT_MOST, hangs_seconds=LONG_SECONDS, tell_hang=_tell_long
        )
        self._lock, self._changed = threading.Lock(), threading.Event()
        self._at = {duty: _first_time(duty) for duty in self.duties}
        self._rests_until: dict[Duty, float] = {}
        self._running: dict[Duty, object] = {}  # by duty: its run that counts
        self._asked, self._done = Counter[Duty](), Counter[Duty]()  # how often the main loop has asked for it
        self._unchecked: set[Duty] = set()
        self._is_asleep = self._is_over = self._enqueues_nothing = False
        self._used_at = NEVER
        self._opened = threading.local()
        self.has_looked = threading.Event()  # the duty that is first has run, if there is one
        if not any(duty.is_first for duty in self.duties):
            self.has_looked.set()

    # For the main loop.

    def hear(self, kind: str, name: str = "") -> None:
        """Tells the duties that hear this kind of NOTIFY."""
        for duty in self._hearers.get(kind, ()):
            duty.hear(name)
            if not duty.enqueues:
                self._asked[duty] += 1
            self._plan(duty, time.monotonic())

    def note_done(self, done: DutyDone) -> None:
        self._done[done.duty] = done.asked

    @property
    def owes(self) -> bool:
        """Whether a duty that the main loop has asked for is still to be done. It may enqueue jobs of a burst."""
        return bool(self._still_asked)

    @property
    def _still_asked(self) -> list[Duty]:
        return [duty for duty, asked in self._asked.items() if asked != self._done[duty]]

    def begin_burst(self, seconds: float) -> None:
        """A burst does what is due already, within this time, and not what is due later."""
        self.has_looked.wait(seconds)
        self.enqueue_nothing()
        self.hear(notify.BATCH, notify.ANY_BATCH)

    def enqueue_nothing(self) -> None:
        """Runs the duties no more that enqueue jobs when it is time."""
        self._enqueues_nothing = True

    # For any thread.

    def go_on(self, duty: Duty) -> None:
        """Runs the duty in another thread, since something hangs in it with which it does not have to wait."""
        with self._lock:
            self._running.pop(duty, None)
        self._plan(duty, time.monotonic())

    def check(self) -> None:
        """Runs the duties that are asked before a sleep, also in a sleep, and tells DutiesChecked."""
        asked = {duty for duty in self.duties if duty.asks_before_sleep}
        self._unchecked = set(asked)
        for duty in asked:
            self._plan(duty, time.monotonic())
        if not asked:
            self._tell(DutiesChecked())

    @property
    def needed_at(self) -> float:
        """When a worker that sleeps has to wake up for a duty."""
        return min((duty.needed_at for duty in self.duties), default=NEVER)

    def sleep(self) -> None:
        """Closes all connections of duties, and of the pools of the process. No duty runs until wake()."""
        self._is_asleep = True
        for duty in self.duties:
            duty.rest()
        self._lane.submit(self._close)
        self._lane.submit(partial(tried, "Closing idle connections", close_pools))

    def wake(self) -> None:
        """Continues: with what a worker wakes up for at once, with the others soon."""
        if self._is_asleep:
            self._is_asleep = False
            now = time.monotonic()
            with self._lock:
                for duty, at in self._at.items():
                    self._at[duty] = now if duty.is_first else max(at, now + AFTER_SLEEP_SECONDS)
            self._changed.set()

    def end(self) -> None:
        """Ends the thread, after what the main loop has asked for."""
        self._is_over = True
        self._changed.set()

    def is_over(self) -> bool:
        return self._is_over or self._enqueues_nothing

    def run_once(self, seconds: float = threading.TIMEOUT_MAX) -> None:
        """Runs each duty in this thread until it has no more to do, but none that enqueues jobs. Those that do not fit
        into this number of seconds are left out."""
        until = time.monotonic() + seconds
        for duty in (duty for duty in self.duties if not duty.enqueues):
            while time.monotonic() < until:
                self._do(duty, None)
                if not duty.has_more:
                    break
                time.sleep(min(BETWEEN_BATCHES_SECONDS, in_seconds(until)))
        self._close()

    # The thread.

    def run(self) -> None:
        while not self._is_over:
            self._changed.clear()
            self._turn()
            self._changed.wait(self._pause())
        for duty in self._still_asked:
            if duty not in self._running:
                self._begin(duty)
        self._lane.submit(self._close)
        self._lane.close(LONG_SECONDS)

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._lane.due_at:
            self._lane.run()
        for duty in sorted(
            (duty for duty in self.duties if self._due_at(duty) <= now), key=self._at.__getitem__
        ):
            self._begin(duty)
        if not self._running and now - self._used_at >= KEEP_OPEN_SECONDS:
            self._used_at = NEVER
            self._lane.submit(self._close)

    def _pause(self) -> float:
        at = min(map(self._due_at, self.duties), default=NEVER)
        if self._running:
            at = min(at, time.monotonic() + LONG_SECONDS)
        return min(in_seconds(min(at, self._used_at + KEEP_OPEN_SECONDS)), threading.TIMEOUT_MAX)

    def _due_at(self, duty: Duty) -> float:
        """Returns when it is due; NEVER while it runs, and for what must not be begun."""
        may_run = duty in self._unchecked or not (
            self._is_asleep or (duty.enqueues and self._enqueues_nothing)
        )
        if duty in self._running or not may_run:
            return NEVER
        return max(self._at[duty], self._rests_until.get(duty, 0.0))

    def _plan(self, duty: Duty, at: float) -> None:
        with self._lock:
            is_sooner = at < self._at[duty]
            if is_sooner:
                self._at[duty] = at
        if is_sooner:
            self._changed.set()

    def _begin(self, duty: Duty) -> None:
        with self._lock:
            run = self._running[duty] = object()
            self._at[duty] = NEVER
        self._lane.submit(partial(self._do, duty, run), duty.name)

    # In the lane.

    def _do(self, duty: Duty, run: object | None) -> None:
        asked, pause = self._asked[duty], duty.interval
        try:
            with self.takes_events():
                pause = self._do_once(duty)
        finally:
            now = self._used_at = time.monotonic()
            with self._lock:
                is_present = self._running.get(duty) is run
                if is_present:
                    self._running.pop(duty, None)
                self._at[duty] = min(self._at[duty], now + pause if is_present else now)
                self._rests_until[duty] = now + duty.rest_seconds
            if self._lane.is_replaced:
                self._close()
            if is_present:
                self._note_done(duty, asked)
            self._changed.set()

    def _do_once(self, duty: Duty) -> float:
        """Returns in how many seconds it is due again."""
        try:
            return duty.run()
        except BaseException as error:  # noqa: BLE001 - code of the project may raise anything
            duty.has_more = False
            self._close()
            return duty.failed(error)

    def _note_done(self, duty: Duty, asked: int) -> None:
        if asked and not duty.has_more:
            self._tell(DutyDone(duty, asked))
        if duty in self._unchecked:
            self._unchecked.discard(duty)
            if not self._unchecked:
                self._tell(DutiesChecked())
        if duty.is_first:
            self.has_looked.set()
            if self._is_asleep:  # since it began to look: it may be needed at another time
                self._tell(Notification(WAKE))

    def connect(self) -> OwnConnection:
        connection: OwnConnection | None = getattr(self._opened, "connection", None)
        if connection is None or connection.closed:
            connection = self._opened.connection = open_connection(
                self._database, application_name="pgonly housekeeper"
            )
            connection.apply_session_settings(lock_wait=LOCK_WAIT)
        return connection

    def _close(self) -> None:
        """Closes the connections of this thread."""
        with suppress(Exception):  # a connection may break while it is closed
            if (connection := getattr(self._opened, "connection", None)) is not None:
                connection.close()
        tried("Closing Django's connections", connections.close_all)


def _first_time(duty: Duty) -> float:
    if duty.interval == NEVER:
        return NEVER
    wait = 0.0 if duty.is_first else min(duty.interval, BUSY_SECONDS) * out_of_step()
    return time.monotonic() + wait


def _tell_long(what: str, _: int) -> None:
    message = f"{what or 'A duty'} takes longer than {LONG_SECONDS:g} s. The other duties continue."
    emit("worker.duty_takes_long", message, duty=what)


def declare_first(database: str, main: WorkerConnection, is_over: Callable[[], bool]) -> None:
    """Declares the queues before the first claim. The workers that run already may not know of the limits. It waits for
    a database that is unavailable, at most START_SECONDS, and not once `is_over`."""
    give_up_at = time.monotonic() + START_SECONDS
    while not is_over():
        try:
            declare(database)
        except (OperationalError, InterfaceError):
            connections[database].close()
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(TRY_SECONDS)
        else:
            if settings().queues:
                main.ask(lambda it: notify.send(it, notify.limited(notify.ANY_QUEUE)))
            return
