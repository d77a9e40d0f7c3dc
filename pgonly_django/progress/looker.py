"""One look at a database for all streams of this process: a thread, and its connections, while streams ask."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any

from django.db import connections

from pgonly_django.database.on_django import time_limit
from pgonly_django.events import emit
from pgonly_django.monitoring.in_time import own_connections
from pgonly_django.progress.look import Seen, Wanted, read

# Streams ask at the same moment of each second, so one statement answers all who ask within this time.
GATHER_SECONDS = 0.02
# The thread ends when it was not asked for this long.
IDLE_SECONDS = 3.0
STATEMENTS_LIMIT = timedelta(seconds=5)

Question = Callable[[], Any] | Sequence[Wanted]

_lookers: dict[str, Looker] = {}  # by alias
_lock = threading.Lock()


def ask(alias: str, question: Question) -> tuple[Looker, Future[Any]]:
    """Returns what read() says of the jobs, or what the function returns, which is called on the thread's connections.
    Returns None where the database did not answer: that is logged once."""
    answer: Future[Any] = Future()
    with _lock:
        looker = _lookers.get(alias)
        if looker is None:
            looker = Looker(alias)
            looker.start()
            _lookers[alias] = looker
        looker.questions.put((question, answer))
    return looker, answer


def give_up(looker: Looker) -> None:
    """Called when this has not answered in time. Its thread ends after its statement; later questions go elsewhere."""
    with _lock:
        _forget(looker)


def _forget(looker: Looker) -> None:
    """Forgets the looker, unless another one has taken its place."""
    if _lookers.get(looker.alias) is looker:
        del _lookers[looker.alias]


class Looker(threading.Thread):
    def __init__(self, alias: str) -> None:
        super().__init__(name="pgonly-progress", daemon=True)
        self.questions: SimpleQueue[tuple[Question, Future[Any]]] = SimpleQueue()
        self.alias, self._is_failing = alias, False

    def run(self) -> None:
        with own_connections():
            while asked := self._asked():
                asked = [each for each in asked if each[1].set_running_or_notify_cancel()]
                self._look([each for each in asked if not callable(each[0])])
                for function, answer in asked:
                    if callable(function):
                        answer.set_result(self._answer(function))

    def _asked(self) -> list[tuple[Question, Future[Any]]]:
        """Returns what was asked within GATHER_SECONDS; nothing if the thread has to end."""
        try:
            first = self.questions.get(timeout=IDLE_SECONDS)
        except Empty:
            with _lock:
                is_idle = self.questions.empty()
                if is_idle:
                    _forget(self)
            return [] if is_idle else self._asked()
        time.sleep(GATHER_SECONDS)
        return [first, *(self.questions.get() for _ in range(self.questions.qsize()))]

    def _look(self, asked: Sequence[Any]) -> None:
        wanted = list(dict.fromkeys(each for question, _ in asked for each in question))
        if not wanted:
            return

        def seen() -> Seen:
            with time_limit(self.alias, STATEMENTS_LIMIT):
                return read(self.alias, wanted)

        found = self._answer(seen)
        for _, answer in asked:
            answer.set_result(found)

    def _answer(self, function: Callable[[], Any]) -> Any:
        try:
            found = function()
        except Exception as error:  # noqa: BLE001 - each stream ends, and its page asks another way
            connections.close_all()
            if not self._is_failing:
                message = f"The jobs that pages show could not be read: {error}"
                emit("progress.look_failed", message, level=logging.WARNING, exc_info=error)
            self._is_failing = True
            return None
        self._is_failing = False
        return found


def _after_fork() -> None:
    """Resets the state of a forked child, which has none of the threads, and one of them may have held the lock."""
    global _lock  # noqa: PLW0603 - there is one in a process
    _lock = threading.Lock()
    _lookers.clear()


os.register_at_fork(after_in_child=_after_fork)
