"""One exchange: what has to be written is sent with the next claim, in one piece, one round trip and one commit. When
the database becomes unavailable nothing is dropped: the caller asks again with the same writes.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult

from pgonly_django.database import notify
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection, one_send_pipeline
from pgonly_django.database.libpq import Sent, good
from pgonly_django.database.statement import Params, Statement
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.finish import REPORT, Finish, Report, finish_statements, report_parameters, whose
from pgonly_django.worker.connection import WorkerConnection

# After a statement has waited for a locked row for as long as it may, locked rows are skipped for the next seconds.
SKIP_LOCKED_SECONDS = 5.0
Row = TypeVar("Row")
# What one row's content can cause, as opposed to the state of the database.
ROW_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
)

# As ClaimedJob._make(), which is a function in Python. psycopg's C code then makes no other tuple for a row.
MAKE_JOB: Callable[[Sequence[Any]], ClaimedJob] = partial(tuple.__new__, ClaimedJob)


@dataclass(slots=True)
class ExchangeResult:
    """The result of one exchange."""

    jobs: list[ClaimedJob] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    lost: list[Finish] = field(default_factory=list)  # of rows that are not ours any more
    locked: list[Finish] = field(default_factory=list)  # to be tried again
    states: dict[str, str] = field(default_factory=dict)  # as written, of ends that are not successes
    replaced: dict[str, Finish] = field(default_factory=dict)  # refused, and what was written instead
    reported: set[str] = field(default_factory=set)  # whose rows took the report, or can never take it
    claim: Claim | None = None  # that was made
    began: float = 0.0  # when it was sent, by time.monotonic()
    was_refused: bool = False  # nothing was done: the whole table is locked, or the statement was cancelled

    def as_written(self, finish: Finish) -> Finish:
        """The end as the row has it: what replaced a refused one, or the cancellation that was requested by then."""
        finish = self.replaced.get(finish.id, finish)
        state = State(self.states.get(finish.id, finish.state))
        return finish if state is finish.state else replace(finish, state=state)


@dataclass(slots=True)
class Exchange:
    """What one exchange carries. `sent`: where it is sent in two halves."""

    connection: OwnConnection
    finishes: Sequence[Finish] = ()
    reports: Sequence[Report] = ()
    claim: Claim | None = None
    sent: Sent = field(default_factory=Sent)

    @property
    def is_over(self) -> bool:
        """Whether it is answered, or will never be."""
        return self.sent.is_answered or self.connection.closed


class Exchanger:
    """Sends what has to be written with the next claim, and reads the answer.

    These are two halves: the loop may send an exchange before it has received the one before, and while the server
    works on both, claimed jobs run and end. What cannot be sent in this way goes through a pipeline of psycopg's:
    behind a pooler, beside locked rows, and what was refused."""

    def __init__(self, database: WorkerConnection, claimer: Claimer) -> None:
        self.database = database
        self.claimer = claimer
        self.under_way: deque[Exchange] = deque()
        self.finishing: set[str] = set()  # the jobs whose finishes are under way
        self._skips_locked_until = 0.0

    @property
    def claims(self) -> list[Claim]:
        """The claims that are under way."""
        return [exchange.claim for exchange in self.under_way if exchange.claim is not None]

    def exchange(
        self, finishes: Sequence[Finish], reports: Sequence[Report], claim: Claim | None
    ) -> ExchangeResult | None:
        """Writes and claims, and waits for the answer, only while none is under way. Returns None when the database is
        unavailable: ask again later, with the same writes. A finish whose row cannot store it fails that job and no
        other. One whose row another transaction has locked comes back in `locked`, and delays neither the others nor
        the claim.
        """
        if self.send(finishes, reports, claim):
            self.database.wait_for_answers()
            return next(self.received())
        connection = self.database.connection()
        return (
            None if connection is None else self._by_psycopg(Exchange(connection, finishes, reports, claim))
        )

    # The two halves.

    def send(self, finishes: Sequence[Finish], reports: Sequence[Report], claim: Claim | None) -> bool:
        """Does the first half. Returns False where it cannot be done now, see exchange()."""
        connection = self.database.connection()
        if connection is None or not self.database.is_direct or self._skips_locked:
            return False
        exchange = Exchange(connection, finishes, reports, claim)
        try:
            exchange.sent = self.database.send(connection, self._statements(exchange))
        except (*TRY_AGAIN, *ROW_ERRORS):
            return False
        except psycopg.Error as error:
            self.database.lose(error)
            return False
        self.finishing.update([finish.id for finish in finishes])
        self.under_way.append(exchange)
        return True

    def wait(self, seconds: float) -> None:
        """Waits until something of an answer has come, or `seconds` have passed."""
        if self.database.read_answers() and not self.under_way[0].is_over:
            self.database.wait_to_read(seconds)

    def received(self) -> Iterator[ExchangeResult | None]:
        """Does the second half, for all that are answered by now. For the results see exchange()."""
        self.database.read_answers()
        while self.under_way and self.under_way[0].is_over:
            exchange = self.under_way.popleft()
            self.finishing.difference_update([finish.id for finish in exchange.finishes])
            yield self._result_of(exchange) if exchange.sent.is_answered else None

    def _result_of(self, exchange: Exchange) -> ExchangeResult | None:
        try:
            return self._read(exchange, [good(each) for each in exchange.sent.results])
        except (*TRY_AGAIN, *ROW_ERRORS) as error:
            self.database.wait_for_answers()
            self._note_refused(error)
            return self._by_psycopg(replace(exchange, sent=Sent()))
        except psycopg.Error as error:
            self.database.lose(error)
            return None

    # By psycopg.

    def _by_psycopg(self, exchange: Exchange) -> ExchangeResult | None:
        try:
            return self._together_or_apart(exchange)
        except psycopg.Error as error:
            self.database.lose(error)
            return None

    def _together_or_apart(self, exchange: Exchange) -> ExchangeResult:
        try:
            try:
                return self._pipeline(exchange)
            except TRY_AGAIN as error:
                self._note_refused(error)
                return self._pipeline(exchange)
        except TRY_AGAIN:
            return ExchangeResult(locked=list(exchange.finishes), was_refused=True)
        except ROW_ERRORS:
            return self._one_by_one(exchange)

    def _pipeline(self, exchange: Exchange, result: ExchangeResult | None = None) -> ExchangeResult:
        """Runs one transaction, and adds its results to `result`."""
        connection = exchange.connection
        with one_send_pipeline(connection), connection.session_settings():
            cursors = [
                connection.cursor(binary=is_binary).execute(statement.sql, parameters, prepare=True)
                for statement, parameters, is_binary in self._statements(exchange)
            ]
        answers = [cursor.pgresult for cursor in cursors if cursor.pgresult is not None]
        return self._read(exchange, answers, result)

    # Of both.

    @property
    def _skips_locked(self) -> bool:
        return time.monotonic() < self._skips_locked_until

    def _note_refused(self, error: Exception) -> None:
        if isinstance(error, TRY_AGAIN):
            self._skips_locked_until = time.monotonic() + SKIP_LOCKED_SECONDS

    def _statements(self, exchange: Exchange) -> list[tuple[Statement, Params, bool]]:
        """Returns each with its parameters, and whether its rows come in binary."""
        statements = [(REPORT, report_parameters(exchange.reports), False)] if exchange.reports else []
        for statement, parameters in finish_statements(exchange.finishes, skip_locked=self._skips_locked):
            statements.append((statement, parameters, False))
        if exchange.claim is not None:
            statements.append((*self.claimer.statement(exchange.claim), True))
        return statements

    def _read(
        self, exchange: Exchange, answers: list[PGresult], result: ExchangeResult | None = None
    ) -> ExchangeResult:
        """Returns the results of these statements. Raises psycopg.Error."""
        connection, finishes, result = exchange.connection, exchange.finishes, result or ExchangeResult()
        claimed = _rows(connection, answers.pop(), MAKE_JOB) if exchange.claim is not None else []
        if exchange.reports:
            result.reported |= {job_id for (job_id,) in _rows(connection, answers.pop(0), tuple)}
        for answer in answers:
            result.states |= dict(_rows(connection, answer, tuple))
        if sum(answer.command_tuples or 0 for answer in answers) == len(finishes):
            result.finished += [finish.id for finish in finishes]
        else:
            self.database.wait_for_answers()
            _judge(connection, finishes, result)
        if payloads := _payloads(finishes):
            self.database.wait_for_answers()
            _notify(connection, payloads)
        if exchange.claim is not None:
            result.claim, result.jobs, result.began = exchange.claim, claimed, exchange.sent.began
            self.claimer.absorb(
                exchange.claim, self.claimer.in_order(claimed), time.monotonic() - exchange.sent.began
            )
        return result

    def _one_by_one(self, exchange: Exchange) -> ExchangeResult:
        """The slow way after a batch failed: each write alone, so that the bad one harms no other (promise 8)."""
        self._skips_locked_until = time.monotonic() + SKIP_LOCKED_SECONDS  # not one wait for each of them
        whole = ExchangeResult()
        for report in exchange.reports:
            try:
                self._pipeline(Exchange(exchange.connection, reports=[report]), whole)
            except TRY_AGAIN:
                continue
            except ROW_ERRORS as error:
                whole.reported.add(report.id)
                message = f"Progress of {report.id} not stored: {error}"
                emit("worker.report_refused", message, level=logging.WARNING)
        for finish in exchange.finishes:
            try:
                try:
                    self._pipeline(Exchange(exchange.connection, [finish]), whole)
                except ROW_ERRORS as error:
                    self._write_refused(exchange.connection, finish, error, whole)
            except TRY_AGAIN:
                whole.locked.append(finish)  # it stays ours, is tried again, and delays no other
        return whole

    def _write_refused(
        self, connection: OwnConnection, finish: Finish, error: psycopg.Error, whole: ExchangeResult
    ) -> None:
        """Writes the same end without what could not be stored, as a failure that says so."""
        emit(
            "worker.finish_refused", f"The end of {finish.id} cannot be stored: {error}", level=logging.ERROR
        )
        reason = f"PostgreSQL refused what the job left: {str(error).strip().splitlines()[0]}"
        entry = json.dumps({"outcome": Outcome.FAILED.value, "reason": reason})
        failure = Finish(finish.id, finish.lease_epoch, Outcome.FAILED, State.FAILED, entry=entry)
        # Without the entry, where the row's own errors take no entry any more.
        for attempt in (failure, replace(failure, entry=None)):
            with suppress(*ROW_ERRORS):
                self._pipeline(Exchange(connection, [attempt]), whole)
                whole.replaced[finish.id] = attempt
                return
        whole.locked.append(finish)


def _judge(connection: OwnConnection, finishes: Sequence[Finish], result: ExchangeResult) -> None:
    """Decides about finishes that matched no row: one was written before (its answer got lost), its row is locked and
    still ours, or it is not ours any more."""
    rows = whose(connection, [finish.id for finish in finishes])
    for finish in finishes:
        lease_epoch, state = rows.get(finish.id, (None, None))
        is_ours = lease_epoch == finish.lease_epoch
        if is_ours and state in (finish.state, State.CANCELLED):
            # A cancellation that was asked for keeps a job from waiting.
            result.finished.append(finish.id)
        elif is_ours and state == State.RUNNING:
            result.locked.append(finish)
        else:
            result.lost.append(finish)


def _rows(connection: OwnConnection, answer: PGresult, make: Callable[[Sequence[Any]], Row]) -> list[Row]:
    if not answer.ntuples:
        return []
    rows = Transformer(connection)
    rows.set_pgresult(answer)
    return rows.load_rows(0, answer.ntuples, make)


def _payloads(finishes: Sequence[Finish]) -> list[str]:
    """Returns the payloads that tell the other workers of jobs that wait again."""
    states = {finish.state for finish in finishes}
    payloads = [notify.ready(notify.ANY_QUEUE)] if State.READY in states else []
    return payloads + ([notify.DUE] if State.SCHEDULED in states else [])


def _notify(connection: OwnConnection, payloads: list[str]) -> None:
    """Notifies after the commit: inside its transaction the ends and the claim would wait for the lock that each commit
    of a NOTIFY takes. Workers that are not told look later by themselves."""
    try:
        notify.send(connection, *payloads)
    except psycopg.Error as error:  # the next exchange notices a lost connection: this one's answer counts
        message = f"The other workers could not be told of released jobs: {str(error).strip()}"
        emit("queue.notify_failed", message, level=logging.WARNING)
