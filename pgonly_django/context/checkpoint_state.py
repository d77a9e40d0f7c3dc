"""How far a run has come: its checkpoint, its loops' positions and names. A ROLLBACK, or a ROLLBACK TO a savepoint,
takes them back in memory, too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connections
from psycopg.pq import TransactionStatus

from pgonly_django.context.output import End
from pgonly_django.context.transactions import is_in_transaction
from pgonly_django.exceptions import LoopNameError
from pgonly_django.queue.checkpoints import Position, Saved
from pgonly_django.queue.output import CHECKPOINT, part_of_step

_SAVEPOINT = re.compile(
    r'\s*(SAVEPOINT|RELEASE|ROLLBACK(?:\s+(?:WORK|TRANSACTION))?\s+TO)(?:\s+SAVEPOINT)?\s+("[^"]+"|\w+)',
    re.IGNORECASE,
)


@dataclass(slots=True)
class CheckpointValues:
    reached: Saved  # by the job
    in_row: Saved  # as the open transaction sees the row
    loop_names: set[str] = field(default_factory=set)  # of the loops that have begun
    has_new_step: bool = False
    steps_with_text: tuple[str, ...] = ()  # the names of those that are new

    def copy(self) -> CheckpointValues:
        return replace(self, reached=self.reached.copy(), loop_names=self.loop_names.copy())


class CheckpointState:
    """The state of one run, changed by the job's own threads. `on_commit` is called after each commit of it."""

    def __init__(self, alias: str, saved: Saved, on_commit: Callable[[], None]) -> None:
        self.alias = alias
        self.loaded = saved.copy()
        self._values = CheckpointValues(saved, self.loaded)
        self._on_commit = on_commit
        # By the names of loops: the connections of each loop's thread. A rollback on one of these may take back what
        # the body of the loop does.
        self._connections: dict[str, list[Any]] = {}
        self._trackers: list[RollbackTracker] = []  # in the order in which their transactions began

    @property
    def values(self) -> CheckpointValues:
        if self._trackers:
            self._apply_rollbacks()
        return self._values

    @property
    def to_write(self) -> Saved:
        """Returns everything reached, except positions that were reached in an open transaction of another database,
        which may still be rolled back."""
        reached = self.values.reached
        for tracker in self._trackers:
            if tracker.connection.alias != self.alias:
                before = tracker.before.reached
                return Saved(reached.value, before.positions.copy(), _ends_of(reached, before))
        return reached.copy()

    def begin_loop(self, name: str) -> Position:
        """Takes the name for a loop, and returns where it stands. Raises LoopNameError where it is taken."""
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
        """Notes that the text of a loop, or the one that stood at the checkpoint, ends here now."""
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
        self.tell_if_committed()

    @property
    def kept_parts(self) -> set[str]:
        """The parts of the output that are written, or will be unless this job's transaction is rolled back."""
        return {*self.to_write.ends, *map(part_of_step, self.values.steps_with_text)}

    def note_new_step(self, name: str, *, has_text: bool) -> None:
        self.track([connections[self.alias]])
        values = self.values
        values.has_new_step = True
        if has_text:
            values.steps_with_text += (name,)
        self.tell_if_committed()

    def track(self, job_connections: Sequence[Any]) -> None:
        """Call it before a change: a rollback of a transaction open on these connections takes the change back."""
        self._apply_rollbacks()
        tracked = [tracker.connection for tracker in self._trackers]
        for connection in job_connections:
            if is_in_transaction(connection) and connection not in tracked:
                self._trackers.append(RollbackTracker(self, connection))

    def close(self) -> None:
        """Ends the tracking when the run has ended: transactions that are still open will be rolled back."""
        if self._trackers:
            self._apply_rollbacks()
            for tracker in reversed(self._trackers):
                tracker.roll_back()
            self._trackers = []

    def _apply_rollbacks(self) -> None:
        """Takes back what was rolled back. The latest transaction comes first: what the oldest restores stays."""
        ended = {id(tracker) for tracker in reversed(self._trackers) if tracker.has_ended()}
        self._trackers = [tracker for tracker in self._trackers if id(tracker) not in ended]

    def snapshot(self) -> CheckpointValues:
        return self._values.copy()

    def restore(self, snapshot: CheckpointValues, alias: str) -> None:
        """Restores the values after a rollback in the database `alias`. The checkpoint stays unless that is the jobs'
        database."""
        values = snapshot.copy()
        if alias != self.alias:
            reached, before = self._values.reached.copy(), values.reached
            reached.positions, reached.ends = before.positions, _ends_of(reached, before)
            values = replace(self._values, reached=reached, loop_names=values.loop_names)
        self._values = values

    def tell_if_committed(self) -> None:
        """Calls `on_commit`, unless a transaction of the jobs' database is open: its tracker calls this later."""
        open_trackers = [tracker for tracker in self._trackers if not tracker.has_ended()]
        if self.alias not in [tracker.connection.alias for tracker in open_trackers]:
            self._on_commit()


def _ends_of(checkpoint: Saved, loops: Saved) -> dict[str, End]:
    ends = loops.ends.copy()
    ends.pop(CHECKPOINT, None)
    return ends | {part: end for part, end in checkpoint.ends.items() if part == CHECKPOINT}


class RollbackTracker:
    """Watches the transaction that is open on `connection`, until it ends, and what it rolls back of `state`.

    Django tells of commits, not of rollbacks. So the tracker puts a mark among the connection's on_commit functions: a
    commit calls it, a rollback drops it. Savepoints, those of atomic() and hand-made ones, are seen in the statements.
    """

    def __init__(self, state: CheckpointState, connection: Any) -> None:
        self.connection, self._state = connection, state
        self.before = state.snapshot()  # without anything that this transaction may take back
        self._savepoints: list[tuple[str, CheckpointValues]] = []
        self._has_ended = False
        self._has_failed = _has_failed(connection)
        self._mark, self._wrapper = self._commit, self._watch  # bound once: the mark is found by identity
        # At the start, outside of every savepoint; on_commit() would append it inside the present one.
        connection.run_on_commit.insert(0, (set(), self._mark, False))
        self._functions = connection.run_on_commit
        # At the start too: Django's execute_wrapper() removes the last one of the list, whichever it is.
        connection.execute_wrappers.insert(0, self._wrapper)

    def has_ended(self) -> bool:
        """Returns whether the transaction has ended. If it was rolled back, the values are restored now."""
        functions = self.connection.run_on_commit  # every commit and every rollback makes a new list
        if self._has_ended or functions is self._functions:
            return self._has_ended
        if any(function is self._mark for _, function, *_ in functions):
            self._functions = functions
            return False
        self.roll_back()
        return True

    def roll_back(self) -> None:
        """Restores the values from before the transaction, and watches no more."""
        self._stop()
        self._state.restore(self.before, self.connection.alias)

    def _commit(self) -> None:
        if self._has_failed:  # PostgreSQL answers COMMIT with a rollback then, and Django does not notice
            self.roll_back()
            return
        self._stop()
        self._state.tell_if_committed()

    def _stop(self) -> None:
        self._has_ended = True
        if self._wrapper in self.connection.execute_wrappers:
            self.connection.execute_wrappers.remove(self._wrapper)

    def _watch(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        try:
            answer = execute(sql, params, many, context)
        except BaseException:
            self._has_failed = _has_failed(self.connection)
            raise
        match = _SAVEPOINT.match(sql) if isinstance(sql, str) else None
        if match:
            self._at_savepoint(match[1].upper(), match[2].strip('"'))
        return answer

    def _at_savepoint(self, verb: str, name: str) -> None:
        if verb == "SAVEPOINT":
            self._savepoints.append((name, self._state.snapshot()))
            return
        # The latest of that name; -1: the savepoint is older than this tracker, so all that the tracker has seen is
        # undone.
        place = max((at for at, (known, _) in enumerate(self._savepoints) if known == name), default=-1)
        if verb == "RELEASE":
            del self._savepoints[max(place, 0) :]
        else:
            self._has_failed = False
            values = self._savepoints[place][1] if place >= 0 else self.before
            self._state.restore(values, self.connection.alias)
            del self._savepoints[place + 1 :]


def _has_failed(connection: Any) -> bool:
    """Returns whether a statement has failed in the transaction, which can only be rolled back now."""
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    status = connection.connection.info.transaction_status
    return status in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)
