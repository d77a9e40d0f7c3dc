"""One look at a database for all streams of this process: a thread, and its connections, while there are streams."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
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
STATEMENTS_LIMIT = timedelta(seconds=5)

Asked = tuple[Callable[[], Any] | Sequence[Wanted], "Future[Any]"]


class Looker:
    """Answers in a thread of its own. An answer is None where the database did not give it: that is logged once."""

    def __init__(self, alias: str) -> None:
        self._alias, self._is_failing = alias, False
        self._questions: SimpleQueue[Asked | None] = SimpleQueue()
        self.users = 0
        threading.Thread(target=self._run, name="pgonly-progress", daemon=True).start()

    def stop(self) -> None:
        """After the questions that wait."""
        self._questions.put(None)

    def ask(self, question: Callable[[], Any] | Sequence[Wanted]) -> Future[Any]:
        """What read() says of the jobs, or what the function returns, which is called on the thread's connections."""
        answer: Future[Any] = Future()
        self._questions.put((question, answer))
        return answer

    def _run(self) -> None:
        with own_connections():
            while (first := self._questions.get()) is not None:
                time.sleep(GATHER_SECONDS)
                asked = [first, *self._waiting()]
                asked = [each for each in asked if each[1].set_running_or_notify_cancel()]
                self._look([each for each in asked if not callable(each[0])])
                for function, answer in asked:
                    if callable(function):
                        answer.set_result(self._answer(function))

    def _waiting(self) -> Iterator[Asked]:
        try:
            while (each := self._questions.get_nowait()) is not None:
                yield each
            self.stop()  # for _run(), which asks again
        except Empty:
            return

    def _look(self, asked: Sequence[Any]) -> None:
        wanted = list(dict.fromkeys(each for question, _ in asked for each in question))
        if not wanted:
            return

        def seen() -> Seen:
            with time_limit(self._alias, STATEMENTS_LIMIT):
                return read(self._alias, wanted)

        found = self._answer(seen)
        for _, answer in asked:
            answer.set_result(found)

    def _answer(self, function: Callable[[], Any]) -> Any:
        try:
            found = function()
        except Exception as error:  # noqa: BLE001 - each stream ends, and its page asks another way
            self._fail(error)
            return None
        self._is_failing = False
        return found

    def _fail(self, error: Exception) -> None:
        for connection in connections.all(initialized_only=True):
            connection.close()
        if not self._is_failing:
            message = f"The jobs that pages show could not be read: {error}"
            emit("progress.look_failed", message, level=logging.WARNING, exc_info=error)
        self._is_failing = True


_lookers: dict[str, Looker] = {}  # by alias
_lock = threading.Lock()


@contextmanager
def looker_of(alias: str) -> Iterator[Looker]:
    """The one of this process, as long as a stream is in such a block."""
    with _lock:
        looker = _lookers.get(alias) or _lookers.setdefault(alias, Looker(alias))
        looker.users += 1
    try:
        yield looker
    finally:
        with _lock:
            looker.users -= 1
            if not looker.users:
                _forget(looker)
                looker.stop()


def give_up(looker: Looker) -> None:
    """It has not answered in time. Its thread ends when its statement does; later streams get another one."""
    with _lock:
        _forget(looker)


def _forget(looker: Looker) -> None:
    for alias in [alias for alias, each in _lookers.items() if each is looker]:
        del _lookers[alias]


def _after_fork() -> None:
    """The child has none of the threads, and one of them may have held the lock."""
    global _lock  # noqa: PLW0603 - there is one in a process
    _lock = threading.Lock()
    _lookers.clear()


os.register_at_fork(after_in_child=_after_fork)
