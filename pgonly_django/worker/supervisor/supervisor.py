"""Starts, watches and replaces the processes of `runworker --processes N`. It runs no jobs itself.

One thread and one loop, which waits for its processes' messages, for signals and for times. While nothing happens it
holds no connection to the database.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from selectors import EVENT_READ
from typing import Any

from django.db import connections

from pgonly_django.worker.health.health import Health
from pgonly_django.worker.health.server import Events
from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.inbox import Inbox
from pgonly_django.worker.memory import resident_bytes
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.payloads import WAKE
from pgonly_django.worker.status import ExitCode, Status, WorkerState
from pgonly_django.worker.stopping import LEAVE_SECONDS, Deadline
from pgonly_django.worker.supervisor import announcing
from pgonly_django.worker.supervisor.process import Place, Process, ending_of, reap
from pgonly_django.worker.supervisor.starting import Child, fork, forks, spawn
from pgonly_django.worker.supervisor.taking_back import Dead, TakingBack
from pgonly_django.worker.systemd import Systemd
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
    """`serve` is a worker's whole life, in a forked child. `ends_at`: of --max-seconds, as time.monotonic()."""

    def __init__(
        self, options: WorkerOptions, serve: Callable[[Child], None], method: str, health: Health,
        ends_at: float | None = None,
    ) -> None:  # fmt: skip
        self.options = options
        self.health = health
        health.snapshot = self.snapshot
        self.serve = serve
        self.method = method
        self.ends_at = ends_at
        self.inbox: Inbox[str] = Inbox()
        self.places = [Place(f"{options.name}-{number}") for number in range(1, options.processes + 1)]
        self.leaving: list[Process] = []  # retires outside of its place; at most one
        self.taking_back = TakingBack(options.database, method, self.close_inherited)
        self.left = threading.Event()
        self.code = ExitCode.STOPPED
        self._asked = self._told = 0
        self._is_ending = False  # no process is started any more
        self._turned_at = time.monotonic()
        self._memory_is_told = False
        self._replaced = 0
        self._deadline = None if ends_at is None else Deadline(options, ends_at)
        self._processes_end_at: float | None = None
        if self._deadline is not None:
            last = (self._deadline.ends_at - self._deadline.jobs_until) * LAST_SHARE
            self._processes_end_at = self._deadline.ends_at - last
        self.leaves_at = NEVER if ends_at is None else ends_at
        self._gives_up_at: float | None = None
        self._sigchld_before: Any = None
        self._systemd: Systemd | None = None

    # From outside.

    def stop(self) -> None:
        """Stop all processes as SIGTERM does. For signal handlers and any thread."""
        self._asked = max(self._asked, STOP)
        self.inbox.put("stop")

    def stop_now(self) -> None:
        """Stop them as SIGQUIT does: running jobs are released now. For signal handlers and any thread."""
        self._asked = STOP_NOW
        self.inbox.put("stop")

    @property
    def is_stopping(self) -> bool:
        return self._asked > 0

    @property
    def processes(self) -> list[Process]:
        return [place.process for place in self.places if place.process is not None] + self.leaving

    def statuses(self) -> list[Status]:
        """Of those that have told one."""
        return [process.status for process in self.processes if process.status is not None]

    def wake(self) -> None:
        """Let all workers look for jobs now. For the supervisor's thread, which serves the health port."""
        for process in self.processes:
            process.started.channel.send({"payload": WAKE})

    def snapshot(self) -> Snapshot:
        statuses = tuple(self.statuses())
        memory = {each.pid: resident_bytes(each.pid) for each in statuses}
        return Snapshot(
            statuses,
            starting=0 if self._is_closed else max(len(self.places) - len(statuses), 0),
            replaced=self._replaced,
            is_stopping=self._is_closed,
            memory={pid: resident for pid, resident in memory.items() if resident is not None},
        )

    def close_inherited(self) -> None:
        """In a forked child: what belongs to the supervisor. While a child had the supervisor's end of another one's
        channel, that one would not notice the end of the supervisor."""
        for process in self.processes:
            process.started.channel.close()
        self.taking_back.forget()
        self.inbox.close()
        self.health.forget()
        self._hear_no_more_of_children()

    # The loop.

    def run(self) -> ExitCode:
        self._hear_of_children()
        self._systemd = Systemd.from_environment()
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
            gc.unfreeze()
            self._hear_no_more_of_children()
            self.health.close()
            self.taking_back.close(self.leaves_at)
            self.left.set()
        announcing.stopped(self.options, self.taking_back.names)
        return self.code

    def _hear_of_children(self) -> None:
        """In the main thread SIGCHLD ends the wait. With a handler the system also keeps ended children until we ask,
        whatever was set before."""
        if threading.current_thread() is threading.main_thread():
            self._sigchld_before = signal.signal(signal.SIGCHLD, lambda *_: None) or signal.SIG_DFL

    def _hear_no_more_of_children(self) -> None:
        if self._sigchld_before is not None:
            signal.signal(signal.SIGCHLD, self._sigchld_before)
            self._sigchld_before = None

    def _turn(self) -> None:
        self._start_due(time.monotonic())
        self.health.handle(self._wait())
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
        self.taking_back.turn(time.monotonic())
        self._pass_on()
        self._tell_memory()
        if self._systemd is not None:
            self._systemd.tell(self.statuses(), is_stopping=self._is_closed)

    def _wait(self) -> Events:
        """Those of the health port's sockets that are ready."""
        now = time.monotonic()
        longest = TURN_SECONDS if self._systemd is None else min(TURN_SECONDS, self._systemd.interval_seconds)
        times = [longest, self.taking_back.next_turn(now), self.health.next_deadline() - now]
        times += [process.kill_at - now for process in self.processes if process.killed_for is None]
        if self._gives_up_at is not None:
            times.append(self._gives_up_at - now)
        if self._deadline is not None and not self._is_ending:
            times.append(self._deadline.stop_at - now)
        if not self._is_closed:
            times += [place.start_at - now for place in self.places]
        channels = [each.started.channel for each in self.processes]
        # One that is closed: the process is about to end, or a job has closed it.
        numbers = [channel.fileno() for channel in channels if not channel.is_closed]
        of_health = self.health.sockets()
        sockets = dict.fromkeys([*numbers, *self.taking_back.sockets()], EVENT_READ) | of_health
        ready = self.inbox.wait(max(min(times), 0.0), sockets)
        self.inbox.take(100, 0.0)
        return {descriptor: events for descriptor, events in ready.items() if descriptor in of_health}

    @property
    def _is_closed(self) -> bool:
        return self.is_stopping or self._is_ending

    def _is_over(self) -> bool:
        if self.processes or not (self._is_closed or all(map(_is_done, self.places))):
            return False
        if self.taking_back.is_over:
            return True
        now = time.monotonic()
        self._gives_up_at = self._gives_up_at or now + GIVE_UP_SECONDS
        return now >= self._gives_up_at

    # Starting.

    def _start_due(self, now: float) -> None:
        for place in self.places:
            if not self._is_closed and place.process is None and now >= place.start_at:
                self._start(place)

    def _start(self, place: Place) -> None:
        self._close_connections()
        try:
            if forks(self.method):
                started = fork(place.name, self._processes_end_at, self.serve, self.close_inherited)
            else:
                started = spawn(place.name, self._processes_end_at)
        except (OSError, RuntimeError) as error:  # no process to spare, or no command to type once more
            pause = place.vacate(time.monotonic(), backs_off=True)
            announcing.not_started(place.name, error, pause)
            return
        now = time.monotonic()
        self._replaced += place.has_begun
        place.has_begun = True
        place.process, place.start_at = Process(place.name, started, now), NEVER
        announcing.process_started(place.process)

    @staticmethod
    def _close_connections() -> None:
        """A child must not use, nor keep open, what belongs to this process. Django's pools have threads."""
        opened: Iterable[Any] = connections.all(initialized_only=True)
        for wrapper in opened:
            with suppress(Exception):
                wrapper.close()
                if wrapper.alias in getattr(wrapper, "_connection_pools", ()):
                    wrapper.close_pool()

    # Ends.

    def _tell_to_stop(self, now: float) -> None:
        if self._asked <= self._told:
            return
        self._told = self._asked
        at_once = self._asked == STOP_NOW
        grace = 0.0 if at_once else self.options.grace_seconds
        self.leaves_at = min(self.leaves_at, now + grace + KILL_AFTER_GRACE_SECONDS + GIVE_UP_SECONDS)
        announcing.stopping(self.processes, grace)
        for process in self.processes:
            process.is_told_to_stop = True
            process.kill_at = now + grace + KILL_AFTER_GRACE_SECONDS
            process.send(signal.SIGQUIT if at_once else signal.SIGTERM)

    def _reap(self, now: float) -> None:
        pids = [process.pid for process in self.processes]
        ended = reap([*pids, *self.taking_back.pids], all_of_them=os.getpid() == 1)
        self.taking_back.pids -= ended.keys()
        for process in self.processes:
            if process.pid in ended:
                process.hear()  # what it said last
                self._has_ended(process, ended[process.pid], now)

    def _has_ended(self, process: Process, code: int | None, now: float) -> None:
        process.started.channel.close()
        if process in self.leaving:
            self.leaving.remove(process)
        is_fine = code in (ExitCode.STOPPED, ExitCode.REPLACE_ME)
        if process.status is not None and not (is_fine and process.holds_nothing):
            planned = process.is_told_to_stop or (process.status.state is WorkerState.STOPPING and is_fine)
            self.taking_back.add(Dead(process.status.worker_id, process.name, planned, now))
        was_loading = process.is_told_to_stop and process.status is None
        announcing.process_ended(process, ending_of(code), is_expected=is_fine or was_loading)
        for place in self.places:
            if place.process is process:
                self._fill_again(place, process, code, now)

    def _fill_again(self, place: Place, process: Process, code: int | None, now: float) -> None:
        is_done = self.options.burst or process.is_out_of_time
        if self._is_closed or (is_done and code == ExitCode.STOPPED):
            place.close()
            return
        pause = place.vacate(now, backs_off=process.backs_off(now))
        if self.options.burst and place.failures >= BURST_FAILURES and process.retires_for is None:
            place.close()
            self.code = ExitCode.BROKEN
            announcing.given_up(place.name, place.failures)
        elif pause:
            announcing.backing_off(place.name, place.failures, pause)

    def _kill_overdue(self, now: float) -> None:
        for process in self.processes:
            if process.killed_for is not None:
                continue
            if now >= process.kill_at:
                process.kill("it did not end within its grace")
            elif process.silent_seconds > self._silence_allowed(process):
                process.kill(f"it has told nothing for {process.silent_seconds:.0f} s")
            else:
                continue
            announcing.killed(process)

    def _silence_allowed(self, process: Process) -> float:
        if process.status is None and process.started.how == "spawned":
            return SPAWN_SECONDS
        return max(self.options.lease_for.total_seconds(), SILENCE_LEAST_SECONDS)

    # Retiring.

    def _note_retiring(self, now: float) -> None:
        """Each process retires by itself, and is replaced when it has ended. One of them at a time leaves its place
        before: while it finishes its jobs there is one process more than N, and never two."""
        if self._is_closed:
            return
        for place in self.places:
            process = place.process
            if process is None or process.retires_for is None:
                continue
            if not process.is_retiring:
                process.is_retiring = True
                announcing.retiring(process)
            if not self.leaving:
                self.leaving.append(process)
                pause = place.vacate(now, backs_off=process.backs_off(now))
                if pause:
                    announcing.backing_off(place.name, place.failures, pause)

    @staticmethod
    def _retire(process: Process) -> None:
        process.is_retiring = True
        process.started.channel.send({"retire": True})

    def _end_when_idle(self, now: float) -> None:
        """--max-idle-seconds counts over all processes."""
        limit, processes = self.options.max_idle_seconds, self.processes
        if limit is None or self._is_closed or len(processes) != len(self.places):
            return
        since = [None if each.status is None else each.status.idle_since for each in processes]
        if all(each is not None and now - each >= limit for each in since):
            self._is_ending = True
            for process in processes:  # one that has just got a job finishes it
                self._retire(process)

    def _end_in_time(self, now: float) -> None:
        """--max-seconds: the processes stop by themselves. None is started any more, and what is left is killed."""
        if self._deadline is None or self._processes_end_at is None or now < self._deadline.stop_at:
            return
        self._is_ending = True
        self._gives_up_at = self._deadline.ends_at
        for process in self.processes:
            process.is_told_to_stop = True  # by the time
            process.kill_at = min(process.kill_at, self._processes_end_at)

    # Messages.

    def _pass_on(self) -> None:
        """What a rescue leaves to be done by a worker: calls of on_failure, signals."""
        ready = [
            each
            for each in self.processes
            if each.was_ready and not each.is_retiring and not each.is_told_to_stop
        ]
        for process in self.processes:
            process.started.channel.flush()
        while ready and self.taking_back.payloads:
            ready[0].started.channel.send({"payload": self.taking_back.payloads.pop(0)})

    def _tell_memory(self) -> None:
        if not self._memory_is_told and all(each.process and each.process.was_ready for each in self.places):
            self._memory_is_told = True
            announcing.memory(self.processes)


def _is_done(place: Place) -> bool:
    """In a burst: its process has found no job any more."""
    return place.process is None and place.start_at == NEVER
