"""Starts, watches and replaces the processes of `runworker --processes N`. It runs no jobs itself.

One loop, which waits for its processes' messages, for signals and for times. A thread and a connection to the database
are there only while the jobs of a process that died are taken back.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ
from uuid import UUID

from django.db import connections

from pgonly_django.events import emit
from pgonly_django.worker.django_connections import close_pools
from pgonly_django.worker.health.health import Health
from pgonly_django.worker.inbox import RETIRE, WAKE, Inbox
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode, Status, Statuses, Systemd, WorkerState
from pgonly_django.worker.stopping import LEAVE_SECONDS, Deadline
from pgonly_django.worker.supervisor.processes import (
    LASTING_SECONDS,
    Child,
    Place,
    Process,
    emit_memory,
    ending_of,
    fork,
    forks,
    reap,
    spawn,
)
from pgonly_django.worker.supervisor.taking_back import Dead, TakingBack
from pgonly_django.worker.timers import NEVER

TURN_SECONDS = 1.0  # the longest pause: the end of a process is noticed so soon even without a signal
SILENCE_LEAST_SECONDS = 30.0
SPAWN_SECONDS = 300.0  # to import a project may take long
KILL_AFTER_GRACE_SECONDS = LEAVE_SECONDS + 1.0  # a process has ended by itself before, unless it is frozen
GIVE_UP_SECONDS = 1.0  # at the end, for jobs that cannot be taken back
# Of the time for leaving that --max-seconds have: after its processes, for the supervisor.
LAST_SHARE = 0.25
BURST_FAILURES = 5
STOP, STOP_NOW = 1, 2
COUNTED_SECONDS = 2.0


class Supervisor:
    """The supervisor. `serve` is a worker's whole life, in a child. `ends_at`: of --max-seconds, monotonic()."""

    def __init__(
        self, options: WorkerOptions, serve: Callable[[Child], None], method: str, health: Health,
        ends_at: float | None = None,
    ) -> None:  # fmt: skip
        self.options, self.serve, self.method, self.health = options, serve, method, health
        health.statuses, health.wake = self.seen, self.wake
        self.inbox: Inbox[str] = Inbox()
        self.places = [Place(f"{options.name}-{number}") for number in range(1, options.processes + 1)]
        # Each with its place. One that retires may have left it, to another one: one at a time.
        self.place_of: dict[Process, Place | None] = {}
        self.taking_back = TakingBack(options.database)
        self.left = threading.Event()
        self.code = ExitCode.STOPPED
        self._asked = self._told = 0
        self._is_ending = False  # no process is started any more
        self._turned_at = time.monotonic()
        self._memory_is_told = False
        self._replaced = 0
        self._deadline = end = Deadline(options, ends_at)
        self._processes_end_at = ends_at and ends_at - (ends_at - end.jobs_until) * LAST_SHARE
        self.leaves_at = end.ends_at
        self._gives_up_at = NEVER
        self._systemd = Systemd.from_environment()

    # From outside.

    def stop(self) -> None:
        """Stops all processes as SIGTERM does. For signal handlers and any thread."""
        self._asked = max(self._asked, STOP)
        self.inbox.put("stop")

    def stop_now(self) -> None:
        """Stops them as SIGQUIT does: running jobs are released now. For signal handlers and any thread."""
        self._asked = STOP_NOW
        self.inbox.put("stop")

    @property
    def is_stopping(self) -> bool:
        return self._asked > 0

    @property
    def processes(self) -> list[Process]:
        return list(self.place_of)

    def statuses(self) -> list[Status]:
        """Returns the statuses of the workers that have told one."""
        return [process.status for process in self.processes if process.status is not None]

    def wake(self) -> None:
        """Lets all workers look for jobs now. For any thread."""
        self.inbox.put(WAKE)

    def seen(self) -> Statuses:
        statuses = self.statuses()
        starting = 0 if self._is_closed else max(len(self.places) - len(statuses), 0)
        return Statuses.of(statuses, starting=starting, replaced=self._replaced, is_stopping=self._is_closed)

    # The loop.

    def run(self) -> ExitCode:
        if threading.current_thread() is threading.main_thread():
            # It ends the wait. With a handler the system also keeps ended children until we ask, whatever was set.
            signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            gc.collect()
            gc.freeze()  # or the first collection in each child would write to all pages, which are shared until then
            while not self._is_over():
                self._turn()
        except BaseException:
            for process in self.processes:  # they would notice, and stop; but this one says why
                process.send(signal.SIGTERM)
            raise
        finally:
            self.health.close()
            self.left.set()
        if left := self.taking_back.names:
            names = ", ".join(left)
            message = f"The jobs of {names} could not be taken back; they are rescued after their leases end."
            emit("worker.jobs_left", message, level=logging.WARNING, workers=left)
        emit("worker.processes_stopped", "All processes have ended.", worker=self.options.name)
        return self.code

    def _turn(self) -> None:
        self._start_due(time.monotonic())
        self._wait()
        now = time.monotonic()
        # While this process itself did not run, as on a machine that sleeps, no child could be heard.
        elapsed, self._turned_at = min(now - self._turned_at, COUNTED_SECONDS), now
        for process in self.processes:
            process.silent_seconds += elapsed
            process.hear()
        self._tell_to_stop(now)
        self._reap(now)
        self._kill_overdue(now)
        self._note_retiring(now)
        self._end_when_idle(now)
        self._end_in_time(now)
        self._take_back(time.monotonic())
        self._tell_memory()
        if self._systemd is not None:
            self._systemd.tell(self.statuses(), is_stopping=self._is_closed)

    def _wait(self) -> None:
        """Waits, and serves the health port."""
        now = time.monotonic()
        longest = TURN_SECONDS if self._systemd is None else min(TURN_SECONDS, self._systemd.interval_seconds)
        times = [now + longest, self.taking_back.next_turn(now), self.health.next_deadline()]
        times += [process.kill_at for process in self.processes if process.killed_for is None]
        times.append(self._gives_up_at)
        if not self._is_ending:
            times.append(self._deadline.stop_at)
        if self._may_start(now):
            times += [place.start_at for place in self.places]
        # One that is closed: the process is about to end, or a job has closed it.
        channels = [each.channel.fileno() for each in self.processes if not each.channel.is_closed]
        sockets = dict.fromkeys(channels, EVENT_READ) | self.health.sockets()
        self.inbox.wait(max(min(times) - now, 0.0), sockets)
        self.health.handle()
        if WAKE in self.inbox.take(100, 0.0):
            for process in self.processes:
                process.channel.send({"payload": WAKE})

    @property
    def _is_closed(self) -> bool:
        return self.is_stopping or self._is_ending

    @property
    def _is_empty(self) -> bool:
        """Whether no process is left or will start: in a burst, each place has found that no job is left."""
        is_done = all(place.start_at == NEVER for place in self.places)
        return not self.place_of and (self._is_closed or is_done)

    def _is_over(self) -> bool:
        if not self._is_empty:
            return False
        now = time.monotonic()
        self._gives_up_at = min(self._gives_up_at, now + GIVE_UP_SECONDS)
        return self.taking_back.is_over or now >= self._gives_up_at

    # Starting.

    def _may_start(self, now: float) -> bool:
        return not self._is_closed and not self.taking_back.keeps_from_forking(now)

    def _start_due(self, now: float) -> None:
        for place in self.places:
            if self._may_start(now) and now >= place.start_at:
                self._start(place)

    def _start(self, place: Place) -> None:
        with suppress(Exception):  # a child must not use, nor keep open, what belongs to this process
            connections.close_all()
            close_pools()
        try:
            if self.method != "spawn":
                self.health.end_clients()
            if forks(self.method):
                process = fork(place.name, self._processes_end_at, self._live)
            else:
                process = spawn(place.name, self._processes_end_at)
        except (OSError, RuntimeError) as error:  # no process to spare, or no command to type again
            pause = place.back_off(time.monotonic())
            message = f"{place.name} cannot be started, trying again in {pause:g} s: {error}"
            emit("worker.process_not_started", message, level=logging.ERROR, worker=place.name)
            return
        self._replaced += place.has_begun
        place.start_at, place.has_begun = NEVER, True
        self.place_of[process] = place
        message = f"{process} starts, {process.how}."
        emit("worker.process_started", message, worker=process.name, pid=process.pid, how=process.how)

    def _live(self, child: Child) -> None:
        """Lives in a forked child, which closes what belongs to the supervisor. While a child had the supervisor's end
        of another one's channel, that one would not notice the end of the supervisor."""
        for process in self.processes:
            process.channel.close()
        self.inbox.close()
        self.health.forget()
        self.serve(child)

    # Ends.

    def _tell_to_stop(self, now: float) -> None:
        if self._asked <= self._told:
            return
        self._told = self._asked
        at_once = self._asked == STOP_NOW
        grace = 0.0 if at_once else self.options.grace_seconds
        self.leaves_at = min(self.leaves_at, now + grace + KILL_AFTER_GRACE_SECONDS + GIVE_UP_SECONDS)
        processes = self.processes
        when = f"their jobs have {grace:g} s" if grace else "their jobs are released now"
        message = f"Stopping {len(processes)} process(es): {when}."
        emit("worker.processes_stopping", message, processes=len(processes), grace_seconds=grace)
        for process in processes:
            process.is_told_to_stop = True
            process.kill_at = now + grace + KILL_AFTER_GRACE_SECONDS
            process.send(signal.SIGQUIT if at_once else signal.SIGTERM)

    def _reap(self, now: float) -> None:
        ended = reap([process.pid for process in self.processes], all_of_them=os.getpid() == 1)
        for process in self.processes:
            if process.pid in ended:
                process.hear()  # what it said last
                self._has_ended(process, ended[process.pid], now)

    def _has_ended(self, process: Process, code: int | None, now: float) -> None:
        process.channel.close()
        place = self.place_of.pop(process)
        is_fine = code in (ExitCode.STOPPED, ExitCode.REPLACE_ME)
        if process.status is not None and not (is_fine and process.holds_nothing):
            planned = process.is_told_to_stop or (process.status.state is WorkerState.STOPPING and is_fine)
            self.taking_back.add(Dead(UUID(process.status.worker_id), process.name, planned, now))
        was_loading = process.is_told_to_stop and process.status is None
        why = f", killed since {process.killed_for}" if process.killed_for else ""
        ending = ending_of(code)
        emit(
            "worker.process_ended", f"{process} {ending}{why}.",
            level=logging.INFO if is_fine or was_loading else logging.WARNING,
            worker=process.name, pid=process.pid, ending=ending,
        )  # fmt: skip
        is_done = (self.options.burst or process.is_out_of_time) and code == ExitCode.STOPPED
        if place is not None and not (self._is_closed or is_done):
            self._start_after(process, place, now)

    def _start_after(self, process: Process, place: Place, now: float) -> None:
        """Starts the next process, at once or, where this one was of no use, after a pause; in a burst not forever."""
        place.start_at = now
        if now - process.started_at >= LASTING_SECONDS:
            place.failures = 0
        if not process.was_of_no_use(now):
            return
        pause = place.back_off(now)
        facts = {"worker": place.name, "failures": place.failures}
        if self.options.burst and place.failures >= BURST_FAILURES and process.retires_for is None:
            place.start_at = NEVER
            self.code = ExitCode.BROKEN
            times = f"{place.failures} times in a row it ended soon after its start"
            message = f"{place.name} is not started again: {times}."
            emit("worker.process_given_up", message, level=logging.ERROR, **facts)
        else:
            times = f"{place.failures} time(s) in a row it ended soon after its start"
            message = f"{place.name} starts again in {pause:g} s: {times}."
            emit("worker.process_backs_off", message, level=logging.WARNING, **facts, pause=pause)

    def _kill_overdue(self, now: float) -> None:
        for process in self.processes:
            if process.killed_for is not None:
                continue
            if now >= process.kill_at:
                process.kill("it did not end within its grace period")
            elif process.silent_seconds > self._silence_allowed(process):
                process.kill(f"it has reported nothing for {process.silent_seconds:.0f} s")

    def _silence_allowed(self, process: Process) -> float:
        if process.status is None and process.how == "spawned":
            return SPAWN_SECONDS
        return max(self.options.lease_for.total_seconds(), SILENCE_LEAST_SECONDS)

    def _take_back(self, now: float) -> None:
        """Takes the jobs back. What happens after the end of their jobs is done by a process that lives, preferably not
        one that stops or starts."""
        self.taking_back.turn(now)
        living = [each for each in self.processes if each.killed_for is None]
        living.sort(key=lambda each: each.is_known_to_retire or each.is_told_to_stop or not each.was_ready)
        while living and self.taking_back.told:
            heard = self.taking_back.told.popleft()
            living[0].channel.send({"payload": f"{heard.kind} {heard.name}"})

    # Retiring.

    def _note_retiring(self, now: float) -> None:
        """Notes that a process retires. Each does so by itself, and is replaced when it has ended. One of them at a
        time leaves its place before: while it finishes its jobs there is one process more than N, and never two."""
        if self._is_closed:
            return
        for process, place in self.place_of.items():
            if process.retires_for is not None and not process.is_known_to_retire:
                process.is_known_to_retire = True
                process.say_retiring()
            if process.retires_for is not None and place and None not in self.place_of.values():
                self.place_of[process] = None
                self._start_after(process, place, now)

    def _end_when_idle(self, now: float) -> None:
        """Ends it for --max-idle-seconds, which counts over all processes."""
        limit, processes = self.options.max_idle_seconds, self.processes
        if limit is None or self._is_closed or len(processes) != len(self.places):
            return
        since = [None if each.status is None else each.status.idle_since for each in processes]
        if all(each is not None and now - each >= limit for each in since):
            self._is_ending = True
            for process in processes:  # one that has just got a job finishes it
                process.channel.send({"payload": RETIRE})

    def _end_in_time(self, now: float) -> None:
        """Ends it for --max-seconds: the processes stop by themselves, none starts, and the rest is killed."""
        if self._processes_end_at is None or now < self._deadline.stop_at:
            return
        self._is_ending = True
        self._gives_up_at = self._deadline.ends_at
        for process in self.processes:
            process.is_told_to_stop = True  # by the time
            process.kill_at = min(process.kill_at, self._processes_end_at)

    def _tell_memory(self) -> None:
        ready = [process.pid for process in self.processes if process.was_ready]
        if not self._memory_is_told and len(ready) == len(self.places):
            self._memory_is_told = True
            emit_memory(ready)
