"""The worker's own connection for claims and finishes: what is to be written goes out with the next claim,
in one pipeline, one round trip and one commit. Nothing is dropped when the database goes away."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json.scanner import make_scanner
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.types.json import set_json_loads

from pgonly_django.database import notify
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection, connect
from pgonly_django.database.libpq import Statement, execute, prepare, takes_statements
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.queue import workers
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer, Unreadable
from pgonly_django.queue.finish import Finish, Outcome, finish_statements
from pgonly_django.queue.lease import cancel_requested
from pgonly_django.queue.progress import REPORT, Report, report_parameters
from pgonly_django.queue.promote import Promotion, promote
from pgonly_django.worker.listener import Listener

Answer = TypeVar("Answer")

# Without the search for white space around it.
_scan = make_scanner(json.JSONDecoder())  # type: ignore[arg-type] # typeshed only knows the C class

# A row that somebody else holds locked must not hold up all the others: when one statement has waited this long,
# rows that are locked are skipped for the next seconds. Shorter than a heartbeat's commit takes would be too short.
LOCK_WAIT, SKIP_LOCKED_SECONDS = "50ms", 5.0
RECONNECT_SECONDS = (0.1, 2.0)
# What one row's content can cause, as opposed to the state of the database.
ROW_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
)
# Index: the primary key. Whose the rows are that a finish did not match.
WHOSE = "SELECT id::text, lease_epoch, state FROM pgonly_job WHERE id = ANY (%(ids)s::uuid[])"
NOTIFY = "SELECT pg_notify(%(channel)s, payload) FROM unnest(%(payloads)s::text[]) AS p(payload)"


@dataclass(slots=True)
class ExchangeResult:
    """What one round trip brought."""

    jobs: list[ClaimedJob] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    reported: set[str] = field(
        default_factory=set
    )  # whose row took what the job has to say, or refused it for good
    lost: list[Finish] = field(default_factory=list)
    locked: list[Finish] = field(default_factory=list)  # to be tried again
    states: dict[str, str] = field(default_factory=dict)  # as written, of ends that are no success
    replaced: dict[str, Finish] = field(default_factory=dict)  # refused, and what was written instead
    claimed: bool = False  # whether the claim was made at all
    was_refused: bool = False  # nothing was done: the whole table is locked, or the statement was cancelled
    took_seconds: float = 0.0

    def as_written(self, finish: Finish | None) -> Finish | None:
        """The end as the row has it: a refusal, or the cancellation that somebody asked for meanwhile."""
        if finish is None or not (self.states or self.replaced):
            return finish
        finish = self.replaced.get(finish.id, finish)
        state = State(self.states.get(finish.id, finish.state))
        return finish if state is finish.state else replace(finish, state=state)


class Exchanger:
    def __init__(self, alias: str, name: str, claimer: Claimer, *, listen: bool = True) -> None:
        self.alias = alias
        self.claimer = claimer
        self.listener = Listener(alias, listens=listen)
        self._name = f"pgonly worker {claimer.worker_id} {name}"
        self._connection: OwnConnection | None = None
        self._skips_locked_until = 0.0
        self._prepared: set[Statement] = set()  # on that connection, to be sent straight over libpq
        self._pause = RECONNECT_SECONDS[0]
        self._next_try = 0.0
        self._was_lost = self._is_direct = False

    def exchange(
        self, finishes: Sequence[Finish], reports: Sequence[Report], claim: Claim | None
    ) -> ExchangeResult | None:
        """Write and claim in one go. None when the database is away: ask again later, with the same writes.

        A finish whose row cannot be stored fails that job and no other. Its row being locked elsewhere puts it
        into `locked`, and delays neither the others nor the claim.
        """
        connection = self.connection()
        if connection is None:
            return None
        began = time.monotonic()
        try:
            answer = self._together_or_apart(connection, finishes, reports, claim)
        except psycopg.Error as error:
            self._lose(error)
            return None
        answer.took_seconds = time.monotonic() - began
        if answer.claimed:
            self.claimer.absorb(answer.jobs, answer.took_seconds)
        return answer

    def _together_or_apart(
        self,
        connection: OwnConnection,
        finishes: Sequence[Finish],
        reports: Sequence[Report],
        claim: Claim | None,
    ) -> ExchangeResult:
        try:
            if claim is not None and not finishes and not reports:
                return self._claim_alone(connection, claim)
            try:
                return self._pipeline(connection, finishes, reports, claim)
            except TRY_AGAIN:
                self._skips_locked_until = time.monotonic() + SKIP_LOCKED_SECONDS
            return self._pipeline(connection, finishes, reports, claim)
        except TRY_AGAIN:
            return ExchangeResult(locked=list(finishes), was_refused=True)
        except ROW_ERRORS:
            return self._one_by_one(connection, finishes, reports)

    def promote(self) -> Promotion | None:
        """See queue.promote. None when the database is away, or refused to."""
        return self._ask(promote)

    def cancel_requested(self, ids: list[str]) -> list[str] | None:
        """See queue.lease. None when the database is away, or refused to."""
        return self._ask(lambda connection: cancel_requested(connection, ids))

    def heard(self) -> list[str]:
        """What workers were told since the last call; everything there is to tell after a time without connection.

        A lost connection is noticed here and made anew.
        """
        return self._ask(self.listener.hear) or []

    def register(self, facts: Mapping[str, Any]) -> None:
        """See queue.workers. While the database is away, or refuses to, it is left to the heartbeat."""
        self._ask(lambda connection: workers.register(connection, facts))

    def say_stopped(self, worker_id: UUID) -> None:
        """Close the worker's row. Without a database, or where the row is locked, it is simply found silent."""
        self._ask(lambda connection: workers.stopped(connection, worker_id))

    def _ask(self, question: Callable[[OwnConnection], Answer]) -> Answer | None:
        connection = self.connection()
        try:
            return None if connection is None else question(connection)
        except TRY_AGAIN:
            return None
        except psycopg.Error as error:
            self._lose(error)
            return None

    @property
    def socket(self) -> int | None:
        """Readable when there is something to hear. None when there is nothing to wait for."""
        if self._connection is None or self._connection.closed or not self.listener.listens:
            return None
        return self._connection.pgconn.socket

    @property
    def reaches_postgres(self) -> bool:
        """Whether it is known that no pooler stands between, which may swap the connection at its other end."""
        return self._is_direct or self.listener.reaches_postgres

    def connection(self) -> OwnConnection | None:
        """The open connection, or a new one; None while the database is away and the backoff runs."""
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._next_try:
            return None
        try:
            self._connection = connect(self.alias, application_name=self._name)
            self._is_direct = self._connection.keep_own_terms(lock_wait=LOCK_WAIT)
            self.listener.open(self._connection)
            if self.listener.reaches_postgres and not self._is_direct:
                self._connection.keep_own_terms(lock_wait=LOCK_WAIT, is_direct=True)
        except psycopg.Error as error:
            self._lose(error)
            return None
        set_json_loads(_load_json, self._connection)
        if self._was_lost:
            emit("worker.database_back", "PostgreSQL is back.")
        self._was_lost, self._pause = False, RECONNECT_SECONDS[0]
        return self._connection

    @property
    def is_away(self) -> bool:
        """Whether the database did not answer at the last try."""
        return self._was_lost

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._prepared.clear()

    def _claim_alone(self, connection: OwnConnection, claim: Claim) -> ExchangeResult:
        """The shortest way to a first job: one statement, which waits for no lock of a row."""
        if not (self.reaches_postgres and takes_statements(connection)):
            with connection.own_terms():
                jobs = _jobs(self._execute_claim(connection, claim))
            return ExchangeResult(jobs=jobs, claimed=True)
        statement, params = self.claimer.statement(claim)
        if statement not in self._prepared:
            prepare(connection, statement)
            self._prepared.add(statement)
        result = execute(connection, statement, params, binary=True)
        rows = Transformer(connection)
        rows.set_pgresult(result)
        return ExchangeResult(jobs=rows.load_rows(0, result.ntuples, ClaimedJob._make), claimed=True)

    def _execute_claim(self, connection: OwnConnection, claim: Claim) -> psycopg.Cursor[Any]:
        statement, params = self.claimer.statement(claim)
        return connection.cursor(binary=True).execute(statement.sql, params, prepare=True)

    def _pipeline(
        self,
        connection: OwnConnection,
        finishes: Sequence[Finish],
        reports: Sequence[Report],
        claim: Claim | None,
    ) -> ExchangeResult:
        answer = ExchangeResult()
        written: list[psycopg.Cursor[Any]] = []
        claimed = reported = None
        skip_locked = time.monotonic() < self._skips_locked_until
        with connection.pipeline(), connection.own_terms():
            if reports:
                reported = connection.execute(REPORT, report_parameters(reports), prepare=True)
            for sql, parameters in finish_statements(finishes, skip_locked=skip_locked):
                written.append(connection.execute(sql, parameters, prepare=True))
            if claim is not None:
                claimed = self._execute_claim(connection, claim)
        answer.finished = [finish.id for finish in finishes]
        if reported is not None:
            answer.reported = {job_id for (job_id,) in reported.fetchall()}
        for cursor in written:
            if cursor.description is not None:
                answer.states |= dict(cursor.fetchall())
        if sum(cursor.rowcount for cursor in written) != len(finishes):
            self._judge(connection, finishes, answer)
        if claimed is not None:
            answer.claimed = True
            answer.jobs = _jobs(claimed)
        self._notify(connection, finishes)
        return answer

    def _one_by_one(
        self, connection: OwnConnection, finishes: Sequence[Finish], reports: Sequence[Report]
    ) -> ExchangeResult:
        """The slow way after a batch failed: each write alone, so that the bad one harms no other (promise 8)."""
        self._skips_locked_until = time.monotonic() + SKIP_LOCKED_SECONDS  # not one wait for each of them
        whole = ExchangeResult()
        for report in reports:
            try:
                whole.reported |= self._pipeline(connection, (), [report], None).reported
            except TRY_AGAIN:
                continue
            except ROW_ERRORS as error:
                whole.reported.add(report.id)
                emit(
                    "worker.report_refused",
                    f"Progress of {report.id} not stored: {error}",
                    level=logging.WARNING,
                )
        for finish in finishes:
            part = self._alone(connection, finish)
            whole.finished += part.finished
            whole.lost += part.lost
            whole.locked += part.locked
            whole.states |= part.states
            whole.replaced |= part.replaced
        return whole

    def _alone(self, connection: OwnConnection, finish: Finish) -> ExchangeResult:
        try:
            return self._pipeline(connection, [finish], (), None)
        except TRY_AGAIN:
            return ExchangeResult(locked=[finish])
        except ROW_ERRORS as error:
            emit(
                "worker.finish_refused",
                f"The end of {finish.id} cannot be stored: {error}",
                level=logging.ERROR,
            )
            return self._write_refusal(connection, finish, error)

    def _write_refusal(
        self, connection: OwnConnection, finish: Finish, error: psycopg.Error
    ) -> ExchangeResult:
        refusal = _unstorable(finish, error)
        for attempt in (
            refusal,
            replace(refusal, entry=None),
        ):  # the row's own errors may take no entry any more
            try:
                answer = self._pipeline(connection, [attempt], (), None)
            except TRY_AGAIN:
                break
            except ROW_ERRORS:
                continue
            answer.replaced[finish.id] = attempt
            return answer
        return ExchangeResult(locked=[finish])  # it stays ours, is tried again, and holds up no other

    def _notify(self, connection: OwnConnection, finishes: Sequence[Finish]) -> None:
        """Tell the other workers of what went back, after the commit: in its transaction the ends and the claim would
        wait for the one lock that all who commit a NOTIFY queue for. Those who are not told look later by themselves.
        """
        payloads = set()
        if any(finish.state is State.READY for finish in finishes):
            payloads.add(notify.ready(notify.ANY_QUEUE))
        if any(finish.state is State.SCHEDULED for finish in finishes):
            payloads.add(notify.DUE)
        if not payloads:
            return
        try:
            connection.execute(NOTIFY, {"channel": notify.CHANNEL, "payloads": list(payloads)}, prepare=True)
        except (
            psycopg.Error
        ) as error:  # a lost connection is noticed by the next exchange: this one's answer counts
            message = f"The other workers could not be told of jobs that went back: {str(error).strip()}"
            emit("queue.notify_failed", message, level=logging.WARNING)

    def _judge(self, connection: OwnConnection, finishes: Sequence[Finish], answer: ExchangeResult) -> None:
        """Some finish matched no row: it was written before (its answer got lost), its row is locked and still ours,
        or it is not ours any more."""
        rows = connection.execute(WHOSE, {"ids": [finish.id for finish in finishes]}).fetchall()
        now = {job_id: (lease_epoch, state) for job_id, lease_epoch, state in rows}
        answer.finished = [f.id for f in finishes if now.get(f.id) in _possible_ends(f)]
        answer.locked = [f for f in finishes if now.get(f.id) == (f.lease_epoch, State.RUNNING.value)]
        kept = {*answer.finished, *(finish.id for finish in answer.locked)}
        answer.lost = [finish for finish in finishes if finish.id not in kept]

    def _lose(self, error: psycopg.Error) -> None:
        self.close()
        if not self._was_lost:
            message = f"PostgreSQL is away, trying again until it is back: {str(error).strip()}"
            emit("worker.database_lost", message, level=logging.WARNING)
        self._was_lost = True
        self._next_try = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, RECONNECT_SECONDS[1])


def _jobs(cursor: psycopg.Cursor[Any]) -> list[ClaimedJob]:
    return [ClaimedJob._make(row) for row in cursor.fetchall()]


def _load_json(data: bytes | str) -> Any:
    """json.loads() for what PostgreSQL writes: no white space around it, UTF-8, and most often empty.

    What cannot be loaded becomes an Unreadable, so that the other rows of the claim are read (promise 8).
    """
    if data == b"[]":
        return []
    if data == b"{}":
        return {}
    try:
        return _scan(data if isinstance(data, str) else data.decode(), 0)[0]
    except (RecursionError, ValueError) as error:  # too deep, or a number of more than 4,300 digits
        return Unreadable(str(error))


def _possible_ends(finish: Finish) -> tuple[tuple[int, str], ...]:
    """(lease_epoch, state) of the row after `finish` was written; a wish to cancel turns waiting into cancelled."""
    return ((finish.lease_epoch, finish.state.value), (finish.lease_epoch, State.CANCELLED.value))


def _unstorable(finish: Finish, error: psycopg.Error) -> Finish:
    """The same end without what could not be stored, as a failure that says so."""
    reason = f"PostgreSQL refused what the job left behind: {str(error).strip().splitlines()[0]}"
    entry = json.dumps({"outcome": Outcome.FAILED.value, "reason": reason})
    return Finish(finish.id, finish.lease_epoch, Outcome.FAILED, State.FAILED, entry=entry)
