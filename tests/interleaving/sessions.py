"""Sessions of the database that go one step at a time, and every order of their steps.

A step ends before a statement on our tables, and before the COMMIT of a transaction that has written or locked
something. In between nothing of a session can be seen by others, nor can it see anything of them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import connections, transaction
from psycopg.pq import TransactionStatus

from pgonly_django.database.connect import connect
from pgonly_django.queue import batches, checkpoints, rescue

# What these read and write no other session does.
PASSED = (
    checkpoints.FIND_STEP, checkpoints.LOAD_CHECKPOINT.sql, rescue.STILL_RUNNING, rescue.STOP, batches.NOTE_SENT
)  # fmt: skip
HAS_WRITTEN = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
IS_BLOCKED = "SELECT count(*) > 0 FROM unnest(%s::int[]) AS pid WHERE cardinality(pg_blocking_pids(pid)) > 0"
QUICK_SECONDS, LONG_SECONDS = 0.01, 20.0

Script = Callable[["Session"], object]


class Killed(BaseException):
    """Unwinds the thread of a session that was killed, and so ends its transactions."""


class Session:
    """A thread with two connections, Django's and `own`, as a worker has it."""

    def __init__(self, name: str, looking: Any) -> None:
        self.name, self._looking = name, looking
        self.at, self.is_over, self.is_blocked, self.is_dead = "", True, False, False
        self.error: BaseException | None = None
        self._pids: list[int] = []
        self._scripts: queue.SimpleQueue[Script | None] = queue.SimpleQueue()
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rested: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    # For the thread that chooses the order.

    def begin(self, script: Script) -> None:
        """Begins the script, and runs it to its first stop."""
        self.is_over = self.is_blocked = self.is_dead = False
        self.error = None
        self._scripts.put(script)
        self._rest()

    def step(self) -> str:
        """Takes one step, unless that waits for a lock. Returns where it stood."""
        stood = self.at
        self._go.put(None)
        self._rest()
        return stood

    def settle(self, *, waits: bool = False) -> None:
        """Notes where a session stands that waited for a lock. `waits`: until it has it."""
        if self.is_blocked and (waits or not self._is_blocked()):
            self._rest(waits=waits)

    def kill(self) -> None:
        """Rolls back what it has not committed, as PostgreSQL does when a process is gone. It sends nothing more."""
        if not self.is_over:
            self.is_dead = True
            if self.is_blocked:
                self._looking.execute(
                    "SELECT pg_cancel_backend(pid) FROM unnest(%s::int[]) AS pid", [self._pids]
                )
            else:
                self._go.put(None)
            self._rest(waits=True)
            assert self.is_over

    def close(self) -> None:
        self.kill()
        self._scripts.put(None)
        self._thread.join(LONG_SECONDS)

    def _rest(self, *, waits: bool = False) -> None:
        self.is_blocked = False
        while True:
            try:
                at = self._rested.get(timeout=LONG_SECONDS if waits else QUICK_SECONDS)
            except queue.Empty:
                assert not waits, f"{self.name} does not come back after {self.at}"
                self.is_blocked = self._is_blocked()
                if self.is_blocked:
                    return
            else:
                self.is_over, self.at = at is None, at or ""
                return

    def _is_blocked(self) -> bool:
        return bool(self._looking.execute(IS_BLOCKED, [self._pids]).fetchone()[0])

    # In its own thread.

    def stop(self, at: str) -> None:
        """Ends a step. Raises Killed."""
        if not self.is_dead:
            self._rested.put(at)
            self._go.get()
        if self.is_dead:
            raise Killed

    def _serve(self) -> None:
        self._open()
        while (script := self._scripts.get()) is not None:
            try:
                with connections["default"].execute_wrapper(self._statement):
                    script(self)
            except Killed:
                pass
            except BaseException as error:
                self.error = error
            self._rested.put(None)
        connections.close_all()
        self.own.close()

    def _open(self) -> None:
        django = connections["default"]
        django.connect()
        django.commit = self._commit
        self.own = Stepwise(self, connect("default", application_name=f"pgonly tests, {self.name}"))
        self._pids = [django.connection.info.backend_pid, self.own.info.backend_pid]

    def _statement(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        in_atomic = connections["default"].in_atomic_block
        stops = self.stop_before(sql, in_transaction=in_atomic)
        with transaction.atomic() if stops and not in_atomic else nullcontext():
            return execute(sql, params, many, context)

    def _commit(self) -> None:
        django = connections["default"]
        try:
            self.stop_before_commit(django.connection)
        except Killed:
            django.rollback()  # which atomic() does for errors of the database only
            raise
        type(django).commit(django)

    def stop_before(self, sql: str, *, in_transaction: bool) -> bool:
        """Returns whether it has. Raises Killed."""
        if self.is_dead:
            raise Killed
        is_new_job = in_transaction and "INSERT INTO pgonly_job " in sql  # which others see at the COMMIT
        if stops := "pgonly_" in sql and sql not in PASSED and not is_new_job:
            self.stop(sql)
        return stops

    def stop_before_commit(self, raw: Any) -> None:
        if raw.execute(HAS_WRITTEN).fetchone()[0]:
            self.stop("COMMIT")


class Stepwise:
    """A connection of ours whose session stops at each statement."""

    def __init__(self, session: Session, raw: Any) -> None:
        self._session, self._raw = session, raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, sql: str, *params: Any, **options: Any) -> Any:
        is_idle = self._raw.info.transaction_status == TransactionStatus.IDLE
        self._session.stop_before(sql, in_transaction=not is_idle)
        with self.transaction() if is_idle else nullcontext():
            return self._raw.execute(sql, *params, **options)

    @contextmanager
    def transaction(self, **options: Any) -> Iterator[Any]:
        with self._raw.transaction(**options) as block:
            yield block
            self._session.stop_before_commit(self._raw)


class Order:
    """One order of the steps of several sessions: at each step `choices` says which of those that may go on goes on,
    and where it says nothing, the first one."""

    def __init__(self, sessions: Sequence[Session], scripts: dict[str, Script], choices: list[int]) -> None:
        self.by_name = dict(zip(scripts, sessions, strict=False))
        self._choices = choices
        self._taken: list[tuple[int, int]] = []  # what was chosen, of how many
        self.steps: list[tuple[str, str]] = []  # the session, and where it stood
        for name, script in scripts.items():
            self.by_name[name].begin(script)

    def run(self, lead: Sequence[str] = ()) -> None:
        for name in lead:
            self._step(name)
        while waiting := [name for name, each in self.by_name.items() if not each.is_over]:
            if free := [name for name in waiting if not self.by_name[name].is_blocked]:
                self._step(free[self._chosen(len(free))])
            else:  # the server ends a deadlock
                self.by_name[waiting[0]].settle(waits=True)

    def _chosen(self, count: int) -> int:
        place = len(self._taken)
        chosen = min(self._choices[place], count - 1) if place < len(self._choices) else 0
        self._taken.append((chosen, count))
        return chosen

    def _step(self, name: str) -> None:
        stood = self.by_name[name].step()
        self.steps.append((name, " ".join(stood.split())))
        for each in self.by_name.values():
            each.settle()

    @property
    def errors(self) -> list[tuple[str, BaseException]]:
        return [(name, each.error) for name, each in self.by_name.items() if each.error and not each.is_dead]

    @property
    def next_choices(self) -> list[int] | None:
        """The choices that lead to the next order; None: this was the last one."""
        taken = self._taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken = taken[:-1]
        return [*(chosen for chosen, _ in taken[:-1]), taken[-1][0] + 1] if taken else None

    def __str__(self) -> str:
        return "\n".join(f"  {name}: {at[:70]}" for name, at in self.steps)
