"""The place where jobs run: threads for sync tasks, one event loop for async ones."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from django.db import connections

from pgonly_django.context.run import Run
from pgonly_django.events import emit
from pgonly_django.worker.django_connections import take_from
from pgonly_django.worker.running import Executor

LATE = "An exception was raised in a slot's thread between two jobs, as by a timeout that a job left running."


class Slots:
    """Threads start when the first jobs come. One whose job was cut off is replaced, and ends when the job returns."""

    def __init__(self, executor: Executor, threads: int, begin_thread: Callable[[], None]) -> None:
        """`begin_thread` is what a thread does first."""
        self.executor = executor
        self.threads = threads
        self.stuck = 0
        self._begin_thread = begin_thread
        self._inbox: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._started = 0
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = False
        self._starting_loop = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._async_slots: asyncio.Semaphore | None = None

    def submit(self, run: Run) -> None:
        """Starts the job in the next free thread, or on the event loop.

        The thread imports a task that is new here: that may take long, and must delay no claim and no cancel.
        """
        run.found_task = found = self.executor.tasks.known(run.job)
        if found is not None and found.is_async:
            with contextlib.suppress(OSError, RuntimeError):  # the loop gets no socket or no thread
                self._submit_async(run)
                return
            run.found_task = None  # a slot asks again, and gives the job its end
        self._inbox.put(run)
        if self._started < self.threads:
            self._start_thread()

    def replace(self, run: Run) -> None:
        """Gives up the thread that `run` holds, and lets another take its place."""
        run.abandoned = True
        self.stuck += 1
        if run.in_thread:
            self._started -= 1
            self._start_thread()
        elif self._loop is not None and self._async_slots is not None:
            self._loop.call_soon_threadsafe(self._async_slots.release)

    def alive(self) -> list[threading.Thread]:
        """Returns the threads that have not ended."""
        return [thread for thread in self._threads if thread.is_alive()]

    def rest(self) -> None:
        """Lets the threads end while no job runs, and their connections with them. The next jobs start others."""
        for _ in range(self._started):
            self._inbox.put(None)
        self._started = 0
        self._threads = self.alive()

    def close(self, timeout: float) -> None:
        """Lets the threads and the loop end when their work is done, and waits at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._is_over = True
        self.rest()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # a job has stopped the loop, and it is closed by now
                self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in () if self.stuck else self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _start_thread(self) -> None:
        name = f"pgonly-slot-{self._started + 1}"
        try:
            self._begin(threading.Thread(target=self._serve, name=name, daemon=True))
        except RuntimeError as error:
            if self._started == 0:
                raise
            message = f"No thread can be started, {self._started} of {self.threads} serve: {error}"
            emit("worker.thread_refused", message, level=logging.ERROR)
        else:
            self._started += 1

    def _begin(self, thread: threading.Thread) -> None:
        thread.start()
        self._threads.append(thread)

    def _serve(self) -> None:
        """Serves until the worker ends, or the thread was replaced. A job's own timeout may raise its exception in this
        thread when the job has ended, even between two jobs: one that was just taken has not begun then, and goes back
        to the others.
        """
        self._begin_thread()
        while True:
            try:
                run = take_from(self._inbox)
                if run is None or not self._serve_one(run):
                    break
            except BaseException:  # noqa: BLE001 - whatever happens, the thread lives
                emit("worker.slot_interrupted", LATE, level=logging.WARNING, exc_info=True)
        connections.close_all()

    def _serve_one(self, run: Run) -> bool:
        """Returns whether the thread continues."""
        try:
            run.in_thread = True
            if run.found_task is None and self.executor.tasks.is_async(run.job):
                run.in_thread = False
                self._submit_async(run)
            elif run.take():
                self.executor.run(run)
        except BaseException as error:  # noqa: BLE001 - whatever happens, the row gets its end
            self.executor.give_up(run, error)
        if run.abandoned and run.in_thread:
            self.stuck -= 1
            return False
        return True

    def _submit_async(self, run: Run) -> None:
        with self._starting_loop:
            if self._loop is None:
                self._loop = self._start_loop()
        self._loop.call_soon_threadsafe(self._begin_async, run)

    def _begin_async(self, run: Run) -> None:
        task = asyncio.ensure_future(self._serve_async(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_async(self, run: Run) -> None:
        if self._async_slots is None:
            self._async_slots = asyncio.Semaphore(self.threads)
        try:
            await self._async_slots.acquire()
        except asyncio.CancelledError:  # a job has cancelled every task of the loop
            self._begin_async(run)
            return
        try:
            if run.take():
                await self.executor.arun(run)
        finally:
            if run.abandoned:  # its place was given to another when it was cut off
                self.stuck -= 1
            else:
                self._async_slots.release()

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run_loop, args=(loop,), name="pgonly-loop", daemon=True)
        try:
            self._begin(thread)
        except RuntimeError:
            loop.close()
            raise
        return loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs until the worker ends. A job may stop the loop of all others; asyncio lets its SystemExit and
        KeyboardInterrupt through the loop as well as into the job's own task, which writes the job's end."""
        asyncio.set_event_loop(loop)
        while not self._is_over:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()
        loop.close()
