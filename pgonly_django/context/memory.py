"""What a run remembers: its checkpoint, how far its loops came and which names they took, in step with its
transactions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connections

from pgonly_django.context.follower import Follower, is_in_transaction
from pgonly_django.exceptions import LoopNameError
from pgonly_django.queue.checkpoints import Saved


@dataclass(slots=True)
class State:
    saved: Saved  # as the job knows it
    written: Saved  # as the row has it, in the eyes of the transaction that is open
    begun: set[str] = field(default_factory=set)  # names of loops
    has_new_step: bool = False

    def copy(self) -> State:
        return State(self.saved.copy(), self.written, self.begun.copy(), self.has_new_step)


class Memory:
    """Changed by the job's own threads. `committed` is called when what is written has become lasting."""

    def __init__(self, alias: str, saved: Saved, committed: Callable[[], None]) -> None:
        self.alias = alias
        self.loaded = saved.copy()
        self._state = State(saved, self.loaded)
        self._committed = committed
        self._followers: list[Follower[State]] = []  # in the order in which their transactions began

    @property
    def state(self) -> State:
        if self._followers:
            self._settle()
        return self._state

    @property
    def is_unsaved(self) -> bool:
        return self.writable != self._state.written

    @property
    def writable(self) -> Saved:
        """What may be written now: no position that was reached in a transaction of another database, whose rows
        may yet be rolled back."""
        saved = self.state.saved
        for follower in self._followers:
            if follower.connection.alias != self.alias:
                return Saved(saved.value, follower.base.saved.positions.copy())
        return saved.copy()

    def begin(self, name: str) -> int:
        """Take the name for a loop; how many of its items are done. Raises LoopNameError for one that is taken."""
        self.follow(watched())
        state = self.state
        if name in state.begun:
            raise LoopNameError(name)
        state.begun.add(name)
        return state.saved.positions.get(name, 0)

    def advance(self, name: str, done: int, watched_connections: Sequence[Any]) -> None:
        self.follow(watched_connections)
        self.state.saved.positions[name] = done

    @property
    def has_progress(self) -> bool:
        """Whether this run has written something that was not there before."""
        written, loaded = self.state.written, self.loaded
        return (
            self._state.has_new_step
            or written.positions != loaded.positions
            or json.loads(written.value) != json.loads(loaded.value)
        )

    def note_written(self, saved: Saved) -> None:
        self.follow([connections[self.alias]])
        self.state.written = saved
        self._state.saved.value = saved.value
        self._now_or_at_the_commit()

    def note_new_step(self) -> None:
        self.follow([connections[self.alias]])
        self.state.has_new_step = True
        self._now_or_at_the_commit()

    def follow(self, watched_connections: Sequence[Any]) -> None:
        """Before a change: from here on, the open transactions of these connections may take it back."""
        self._settle()
        followed = [follower.connection for follower in self._followers]
        for connection in watched_connections:
            if is_in_transaction(connection) and connection not in followed:
                put_back = self._restore if connection.alias == self.alias else self._restore_positions
                follower = Follower(connection, self._snapshot, put_back, self._now_or_at_the_commit)
                self._followers.append(follower)

    def end(self) -> None:
        """The run is over: what is still open will be rolled back."""
        if self._followers:
            self._settle()
            for follower in reversed(self._followers):
                follower.give_up()
            self._followers = []

    def _settle(self) -> None:
        """Take back what was rolled back; the latest first, so that what the oldest puts back stays."""
        over = {id(follower) for follower in reversed(self._followers) if follower.is_over()}
        self._followers = [follower for follower in self._followers if id(follower) not in over]

    def _snapshot(self) -> State:
        return self._state.copy()

    def _restore(self, state: State) -> None:
        self._state = state.copy()

    def _restore_positions(self, state: State) -> None:
        """A checkpoint that was saved in the jobs' database is there, whatever becomes of the other's transaction."""
        self._state.saved.positions = state.saved.positions.copy()
        self._state.begun = state.begun.copy()

    def _now_or_at_the_commit(self) -> None:
        aliases = [follower.connection.alias for follower in self._followers if not follower.is_over()]
        if self.alias not in aliases:
            self._committed()


def watched() -> list[Any]:
    """This thread's connections, whose transactions may take back what the job does in them."""
    return [connections[alias] for alias in connections]
