"""How far a run has come: its checkpoint, its loops' positions and names. A rollback takes them back as well."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connections

from pgonly_django.context.output import End
from pgonly_django.context.transactions import RollbackTracker, is_in_transaction
from pgonly_django.exceptions import LoopNameError
from pgonly_django.queue.checkpoints import Position, Saved
from pgonly_django.queue.output import CHECKPOINT, part_of_step


@dataclass(slots=True)
class Values:
    reached: Saved  # by the job
    in_row: Saved  # as the open transaction sees the row
    loop_names: set[str] = field(default_factory=set)  # of the loops that have begun
    has_new_step: bool = False
    steps_with_text: tuple[str, ...] = ()  # the names of those that are new

    def copy(self) -> Values:
        return replace(self, reached=self.reached.copy(), loop_names=self.loop_names.copy())


class CheckpointState:
    """Changed by the job's own threads only. `on_commit` is called when something written has been committed."""

    def __init__(self, alias: str, saved: Saved, on_commit: Callable[[], None]) -> None:
        self.alias = alias
        self.loaded = saved.copy()
        self._values = Values(saved, self.loaded)
        self._on_commit = on_commit
        # By the names of loops: the connections of the thread of each. A rollback on one of them may take back what the
        # loop's body does.
        self._connections: dict[str, list[Any]] = {}
        self._trackers: list[RollbackTracker[Values]] = []  # in the order in which their transactions began

    @property
    def values(self) -> Values:
        if self._trackers:
            self._apply_rollbacks()
        return self._values

    @property
    def is_unwritten(self) -> bool:
        return self.to_write != self._values.in_row

    @property
    def to_write(self) -> Saved:
        """Everything reached, but no position that was reached in an open transaction of another database: that may
        still be rolled back."""
        reached = self.values.reached
        for tracker in self._trackers:
            if tracker.connection.alias != self.alias:
                before = tracker.before.reached
                return Saved(reached.value, before.positions.copy(), _ends_of(reached, before))
        return reached.copy()

    def begin_loop(self, name: str) -> Position:
        """Take the name for a loop; where it stands. Raises LoopNameError where it is taken."""
        self._connections[name] = [connections[alias] for alias in connections]
        self.track(self._connections[name])
        values = self.values
        if name in values.loop_names:
            raise LoopNameError(name)
        values.loop_names.add(name)
        return values.reached.positions.get(name, Position())

    def advance_loop(self, name: str, at: Position) -> None:
        self.track(self._connections[name])
        self.values.reached.positions[name] = at

    def note_end(self, part: str, end: End, *, is_in_row: bool = False) -> None:
        """Here ends the text of a loop now, or the one that stood at the checkpoint."""
        self.values.reached.ends[part] = end
        if is_in_row:
            self._values.in_row = in_row = self._values.in_row.copy()
            in_row.ends[part] = end

    def forget_end(self, part: str) -> None:
        self.values.reached.ends.pop(part, None)
        self._values.in_row = in_row = self._values.in_row.copy()
        in_row.ends.pop(part, None)

    @property
    def has_progress(self) -> bool:
        """Whether this run has written something that was not there before."""
        in_row, loaded = self.values.in_row, self.loaded
        return (
            self._values.has_new_step
            or in_row.positions != loaded.positions
            or json.loads(in_row.value) != json.loads(loaded.value)
        )

    def note_written(self, saved: Saved) -> None:
        self.track([connections[self.alias]])
        self.values.in_row = saved
        self._values.reached.value = saved.value
        if (end := saved.ends.get(CHECKPOINT)) is not None:
            self._values.reached.ends[CHECKPOINT] = end
        self._tell_if_committed()

    @property
    def kept_parts(self) -> set[str]:
        """The parts of the output that are written, or will be unless this job's own transaction is rolled back."""
        return {*self.to_write.ends, *map(part_of_step, self.values.steps_with_text)}

    def note_new_step(self, name: str, *, has_text: bool) -> None:
        self.track([connections[self.alias]])
        values = self.values
        values.has_new_step = True
        if has_text:
            values.steps_with_text += (name,)
        self._tell_if_committed()

    def track(self, job_connections: Sequence[Any]) -> None:
        """Call it before a change: a rollback of a transaction that is open on these connections takes it back."""
        self._apply_rollbacks()
        tracked = [tracker.connection for tracker in self._trackers]
        for connection in job_connections:
            if is_in_transaction(connection) and connection not in tracked:
                restore = self._restore if connection.alias == self.alias else self._restore_positions
                tracker = RollbackTracker(connection, self._snapshot, restore, self._tell_if_committed)
                self._trackers.append(tracker)

    def close(self) -> None:
        """The run is over: transactions that are still open will be rolled back."""
        if self._trackers:
            self._apply_rollbacks()
            for tracker in reversed(self._trackers):
                tracker.roll_back()
            self._trackers = []

    def _apply_rollbacks(self) -> None:
        """Take back what was rolled back. The latest transaction comes first: what the oldest restores stays."""
        ended = {id(tracker) for tracker in reversed(self._trackers) if tracker.has_ended()}
        self._trackers = [tracker for tracker in self._trackers if id(tracker) not in ended]

    def _snapshot(self) -> Values:
        return self._values.copy()

    def _restore(self, values: Values) -> None:
        self._values = values.copy()

    def _restore_positions(self, values: Values) -> None:
        """After a rollback in another database. The checkpoint, saved in the jobs' database, stays."""
        self._values.reached.positions = values.reached.positions.copy()
        self._values.reached.ends = _ends_of(self._values.reached, values.reached)
        self._values.loop_names = values.loop_names.copy()

    def _tell_if_committed(self) -> None:
        """Not while a transaction of the jobs' database is open: its tracker calls this after the commit."""
        open_trackers = [tracker for tracker in self._trackers if not tracker.has_ended()]
        if self.alias not in [tracker.connection.alias for tracker in open_trackers]:
            self._on_commit()


def _ends_of(checkpoint: Saved, loops: Saved) -> dict[str, End]:
    ends = loops.ends.copy()
    ends.pop(CHECKPOINT, None)
    return ends | {part: end for part, end in checkpoint.ends.items() if part == CHECKPOINT}
