"""Notes each paid call and each save of a run in a file, and kills the run's process at the save that was chosen."""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from django.db import connections, transaction

from pgonly_django.context.context import JobContext
from pgonly_django.context.rollback_tracker import is_in_transaction
from pgonly_django.context.spending import Spending
from pgonly_django.queue.checkpoints import Saved


class Saves:
    """The notes of one run. Each is written before what it announces, and survives the process."""

    def __init__(self, path: str, kill_at: int | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._kill_at, self._reached = kill_at, 0
        self._pid, self._lock = os.getpid(), threading.Lock()

    def note(self, **facts: Any) -> None:
        os.write(self._file, json.dumps(facts).encode() + b"\n")

    def reached(self, where: str) -> None:
        """A save, described as in "killed right after step 'a' was saved". A process that the job has forked makes
        none."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._reached += 1
            self.note(save=self._reached, where=where)
            if self._reached == self._kill_at:
                # The group: the processes that the job has started die with it, as on a machine that is lost.
                os.killpg(0, signal.SIGKILL)

    @contextmanager
    def counted(self, call: str) -> Iterator[None]:
        self.note(began=call)
        yield
        self.note(ended=call)


def counting(saves: Saves, call: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with its calls noted."""

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with saves.counted(call):
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def acounted(*args: Any, **kwargs: Any) -> Any:
        with saves.counted(call):
            return await function(*args, **kwargs)

    return acounted if inspect.iscoroutinefunction(function) else counted


class WatchedContext(JobContext):
    """A JobContext that tells `saves` of each save. It saves the position of a loop after each item: in production a
    second may pass, and a kill right before the save stands for all kills within it."""

    saves: ClassVar[Saves]

    def _find_step(self, name: str) -> str | None:
        found = super()._find_step(name)
        if found is None:
            self.saves.note(began=f"step {name!r}")
        return found

    def _keep_step(self, name: str, value: Any, spending: Spending) -> str:
        kept = super()._keep_step(name, value, spending)
        self.saves.note(ended=f"step {name!r}")
        self._has_saved(f"step {name!r}")
        return kept

    def _write(self, saved: Saved) -> None:
        what = self._what_is_new(saved)
        self.saves.reached(f"right before {what} was saved")
        super()._write(saved)
        self._has_saved(what)

    def _advance_loop(self, *args: Any) -> bool:
        super()._advance_loop(*args)
        return True

    def _has_saved(self, what: str) -> None:
        connection = connections[self._run.alias]
        if not is_in_transaction(connection):
            return self.saves.reached(f"right after {what} was saved")
        self.saves.reached(f"right after {what} was saved, in a transaction that was still open")
        if connection.in_atomic_block:
            transaction.on_commit(
                lambda: self.saves.reached(f"right after the commit of {what}"), using=connection.alias
            )
        return None

    def _what_is_new(self, saved: Saved) -> str:
        in_row = self._state.values.in_row
        places = [
            f"position {at.done} of the loop {name!r}"
            for name, at in saved.positions.items()
            if in_row.positions.get(name) != at
        ]
        if saved.value != in_row.value or not places:
            places.insert(0, f"the checkpoint {saved.value[:80]}")
        return " and ".join(places)


def read_marks(path: str) -> list[dict[str, Any]]:
    file = Path(path)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
