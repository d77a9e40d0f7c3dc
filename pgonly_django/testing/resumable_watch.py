"""Counts the places at which a run can be killed, and kills it at one of them by an exception. From then on nothing of
that run reaches a database, whatever its `finally` and `except` blocks do."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from django.db import connections

from pgonly_django.context.calls import Spending
from pgonly_django.context.memory import Memory
from pgonly_django.context.pending_wait import PendingWait
from pgonly_django.context.transactions import is_in_transaction
from pgonly_django.database.statement import Statement
from pgonly_django.queue.checkpoints import Position, Saved
from pgonly_django.queue.waits import WaitLook
from pgonly_django.testing.autocommit import CommitWatch

_WRITE = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM)\s+([\w.\"]+)")
_CACHE_ENTRY = re.compile(r"\bpgonly_cache(_durable)?\b")
_NO_ENTRY = re.compile(r"\s*SELECT|.*\bpgonly_cache_usage\b", re.DOTALL)


class Killed(BaseException):
    """Stands for the death of the process. It is not an Exception, so `except Exception` does not swallow it."""


@dataclass(frozen=True)
class KillPlace:
    where: str  # "right after ..."
    saves_items: bool  # see KillWatch
    number: int  # among the places of such a run
    unsaved: int  # items of a loop that are done while its saved position is that of an earlier one

    def __str__(self) -> str:
        if self.saves_items:
            return self.where
        items = "item" if self.unsaved == 1 else "items"
        return f"{self.where}, with {self.unsaved} {items} of a loop done since its position was saved"


class KillWatch(CommitWatch):
    """The watch of one run, and of the one that resumes it. `saves_items`: the position of a loop is saved after each
    item, or only at its end."""

    def __init__(self, *, saves_items: bool = True, kill_at: int | None = None) -> None:
        self.saves_items, self.kill_at = saves_items, kill_at
        self.places: list[KillPlace] = []
        self.calls: Counter[str] = Counter()  # how often each step and each function of `paid` was called
        self.is_dead = False
        self.open_calls = 0
        self._beside_open: Counter[str] = Counter()  # calls made since none was open
        self._quiet: Counter[int] = Counter()  # by the thread
        self._unsaved: Counter[str] = Counter()

    def check(self) -> None:
        if self.is_dead:
            raise Killed

    def reached(self, where: str) -> None:
        """Counts a place. Raises Killed at the one that was chosen, and at each later one."""
        self.check()
        if self._quiet[get_ident()]:
            return
        unsaved = max(self._unsaved.values(), default=0)
        self.places.append(KillPlace(where, self.saves_items, len(self.places) + 1, unsaved))
        if len(self.places) == self.kill_at:
            self.is_dead = True
            raise Killed

    def committed(self, sql: str) -> None:
        found = _WRITE.search(sql)
        what = f"{found[1]} {found[2].replace(chr(34), '')}" if found else sql[:60] or "a transaction"
        self.reached(f"right after {what} was committed")

    def called(self, statement: Statement) -> None:
        """Does nothing: limiters and budgets make no places, since reservations of killed processes end by
        themselves."""
        if _CACHE_ENTRY.search(statement.sql) and not _NO_ENTRY.match(statement.sql):
            self.reached("right after an entry of the cache was written")

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Makes one place after the block of all that is committed in it."""
        self._quiet[get_ident()] += 1
        try:
            yield
        finally:
            self._quiet[get_ident()] -= 1

    def item_is_done(self, loop: str) -> bool:
        """Returns whether it is time to save its position."""
        self._unsaved[loop] += 1
        return self.saves_items

    def saved(self) -> None:
        """Saves the positions of all loops."""
        self._unsaved.clear()

    def began(self, call: str) -> None:
        self.check()
        if not self.open_calls:
            self._beside_open.clear()
        self.open_calls += 1
        self._beside_open[call] += 1
        self.calls[call] += 1

    def ended(self) -> None:
        self.open_calls -= 1

    def cut_off(self) -> Counter[str]:
        """Returns the calls that were under way at the kill, with those that had ended inside or beside them."""
        return self._beside_open if self.is_dead and self.open_calls else Counter()


def counting(watch: Callable[[], KillWatch], call: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, with its calls noted by the watch of the present run, and a place after each."""

    @contextmanager
    def noted() -> Iterator[None]:
        watch().began(call)
        yield
        watch().ended()
        watch().reached(f"right after {call} had returned")

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with noted():
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def acounted(*args: Any, **kwargs: Any) -> Any:
        with noted():
            return await function(*args, **kwargs)

    return acounted if inspect.iscoroutinefunction(function) else counted


class WatchedMemory(Memory):
    """Has places around what it saves, and saves positions of loops as the watch says, not by time."""

    def __init__(self, watch: KillWatch, *saved: Any, **options: Any) -> None:
        super().__init__(*saved, **options)
        self.watch = watch

    def find_step(self, name: str) -> str | None:
        found = super().find_step(name)
        if found is None:
            self.watch.began(f"step {name!r}")
        return found

    def keep_step(self, name: str, value: Any, spending: Spending) -> str:
        self.watch.reached(f"between the call of step {name!r} and its save")
        with self.watch.quietly():
            kept = super().keep_step(name, value, spending)
        self.watch.ended()
        self._has_saved(f"step {name!r}")
        return kept

    def look_again(self, wait: PendingWait) -> WaitLook:
        """Makes a place only where an answer is saved: how often a run looks depends on how fast it is."""
        with self.watch.quietly():
            look = super().look_again(wait)
        if look.is_new:
            self._has_saved(f"the answer to {wait.name!r}")
        return look

    def _write(self, saved: Saved) -> None:
        what = self._what_is_new(saved)
        self.watch.reached(f"right before {what} was saved")
        with self.watch.quietly():
            super()._write(saved)
        self.watch.saved()
        self._has_saved(what)

    def advance_loop(self, name: str, at: Position) -> bool:
        super().advance_loop(name, at)
        return self.watch.item_is_done(name)

    def _has_saved(self, what: str) -> None:
        is_open = is_in_transaction(connections[self._run.alias])
        where = ", in a transaction that was still open" if is_open else ""
        self.watch.reached(f"right after {what} was saved{where}")

    def _what_is_new(self, saved: Saved) -> str:
        in_row = self.state.values.in_row
        places = [
            f"position {at.done} of the loop {name!r}"
            for name, at in saved.positions.items()
            if in_row.positions.get(name) != at
        ]
        if saved.value != in_row.value or not places:
            places.insert(0, f"the checkpoint {saved.value[:80]}")
        return " and ".join(places)
