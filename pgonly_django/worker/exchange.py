"""One exchange: what is to be written goes out with the next claim, in one pipeline, one round trip and one commit.

When the database goes away nothing is dropped: the caller asks again with the same writes.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer

from pgonly_django.database import notify
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection, one_send_pipeline
from pgonly_django.database.libpq import execute, prepare, takes_statements
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.finish import REPORT, Finish, Report, finish_statements, report_parameters, whose
from pgonly_django.worker.connection import WorkerConnection

# After a statement has waited for a locked row for as long as it may, locked rows are skipped for the next seconds.
SKIP_LOCKED_SECONDS = 5.0
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
    """What one exchange brought."""

    jobs: list[ClaimedJob] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    lost: list[Finish] = field(default_factory=list)  # of rows that are not ours any more
    locked: list[Finish] = field(default_factory=list)  # to be tried again
    states: dict[str, str] = field(default_factory=dict)  # as written, of ends that are no success
    replaced: dict[str, Finish] = field(default_factory=dict)  # refused, and what was written instead
    reported: set[str] = field(default_factory=set)  # whose rows took the report, or can never take it
    claimed: bool = False  # whether the claim was made at all
    was_refused: bool = False  # nothing was done: the whole table is locked, or the statement was cancelled

    def as_written(self, finish: Finish) -> Finish:
        """The end as the row has it: what replaced a refused one, or the cancellation that was asked for by then."""
        finish = self.replaced.get(finish.id, finish)
        state = State(self.states.get(finish.id, finish.state))
        return finish if state is finish.state else replace(finish, state=state)


class Exchanger:
    def __init__(self, database: WorkerConnection, claimer: Claimer) -> None:
        self.database = database
        self.claimer = claimer
        self._skips_locked_until = 0.0

    def exchange(
        self, finishes: Sequence[Finish], reports: Sequence[Report], claim: Claim | None
    ) -> ExchangeResult | None:
        """Write and claim. None when the database is away: ask again later, with the same writes.

        A finish whose row cannot store it fails that job and no other. One whose row somebody else holds locked comes
        back in `locked`, and delays neither the others nor the claim.
        """
        connection = self.database.connection()
        if connection is None:
            return None
        began = time.monotonic()
        try:
            result = self._together_or_apart(connection, finishes, reports, claim)
        except psycopg.Error as error:
            self.database.lose(error)
            return None
        if result.claimed:
            self.claimer.absorb(self.claimer.in_order(result.jobs), time.monotonic() - began)
        return result

    def _together_or_apart(
        self, connection: OwnConnection, finishes: Sequence[Finish], reports: Sequence[Report],
        claim: Claim | None,
    ) -> ExchangeResult:  # fmt: skip
        try:
            is_alone = self.database.is_direct and not (finishes or reports)
            if claim is not None and is_alone and takes_statements(connection):
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

    def _claim_alone(self, connection: OwnConnection, claim: Claim) -> ExchangeResult:
        """The shortest way to a first job: one statement, which waits for no lock of a row."""
        statement, params = self.claimer.statement(claim)
        if statement not in self.database.prepared:
            prepare(connection, statement)
            self.database.prepared.add(statement)
        answer = execute(connection, statement, params, binary=True)
        rows = Transformer(connection)
        rows.set_pgresult(answer)
        return ExchangeResult(jobs=rows.load_rows(0, answer.ntuples, MAKE_JOB), claimed=True)

    def _pipeline(
        self, connection: OwnConnection, finishes: Sequence[Finish], reports: Sequence[Report],
        claim: Claim | None, result: ExchangeResult | None = None,
    ) -> ExchangeResult:  # fmt: skip
        """One transaction. What came of it is added to `result`."""
        result = result or ExchangeResult()
        written: list[psycopg.Cursor[Any]] = []
        claimed: psycopg.Cursor[ClaimedJob] | None = None
        reported = None
        skip_locked = time.monotonic() < self._skips_locked_until
        with one_send_pipeline(connection), connection.session_settings():
            if reports:
                reported = connection.execute(REPORT, report_parameters(reports), prepare=True)
            for sql, parameters in finish_statements(finishes, skip_locked=skip_locked):
                written.append(connection.execute(sql, parameters, prepare=True))
            if claim is not None:
                statement, params = self.claimer.statement(claim)
                jobs = connection.cursor(binary=True, row_factory=_jobs)
                claimed = jobs.execute(statement.sql, params, prepare=True)
        if reported is not None:
            result.reported |= {job_id for (job_id,) in reported.fetchall()}
        for cursor in written:
            if cursor.description is not None:
                result.states |= dict(cursor.fetchall())
        if sum(cursor.rowcount for cursor in written) == len(finishes):
            result.finished += [finish.id for finish in finishes]
        else:
            _judge(connection, finishes, result)
        if claimed is not None:
            result.claimed = True
            result.jobs = claimed.fetchall()
        _notify(connection, finishes)
        return result

    def _one_by_one(
        self, connection: OwnConnection, finishes: Sequence[Finish], reports: Sequence[Report]
    ) -> ExchangeResult:
        """The slow way after a batch failed: each write alone, so that the bad one harms no other (promise 8)."""
        self._skips_locked_until = time.monotonic() + SKIP_LOCKED_SECONDS  # not one wait for each of them
        whole = ExchangeResult()
        for report in reports:
            try:
                self._pipeline(connection, (), [report], None, whole)
            except TRY_AGAIN:
                continue
            except ROW_ERRORS as error:
                whole.reported.add(report.id)
                message = f"Progress of {report.id} not stored: {error}"
                emit("worker.report_refused", message, level=logging.WARNING)
        for finish in finishes:
            try:
                try:
                    self._pipeline(connection, [finish], (), None, whole)
                except ROW_ERRORS as error:
                    self._write_refused(connection, finish, error, whole)
            except TRY_AGAIN:
                whole.locked.append(finish)  # it stays ours, is tried again, and delays no other
        return whole

    def _write_refused(
        self, connection: OwnConnection, finish: Finish, error: psycopg.Error, whole: ExchangeResult
    ) -> None:
        """The same end without what could not be stored, as a failure that says so."""
        emit(
            "worker.finish_refused", f"The end of {finish.id} cannot be stored: {error}", level=logging.ERROR
        )
        reason = f"PostgreSQL refused what the job left behind: {str(error).strip().splitlines()[0]}"
        entry = json.dumps({"outcome": Outcome.FAILED.value, "reason": reason})
        failure = Finish(finish.id, finish.lease_epoch, Outcome.FAILED, State.FAILED, entry=entry)
        # Without the entry, where the row's own errors take no entry any more.
        for attempt in (failure, replace(failure, entry=None)):
            with suppress(*ROW_ERRORS):
                self._pipeline(connection, [attempt], (), None, whole)
                whole.replaced[finish.id] = attempt
                return
        whole.locked.append(finish)


def _jobs(_: object) -> Callable[[Sequence[Any]], ClaimedJob]:
    """A row factory of psycopg."""
    return MAKE_JOB


def _judge(connection: OwnConnection, finishes: Sequence[Finish], result: ExchangeResult) -> None:
    """Some finish matched no row: it was written before (its answer got lost), its row is locked and still ours, or
    it is not ours any more."""
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


def _notify(connection: OwnConnection, finishes: Sequence[Finish]) -> None:
    """Tell the other workers of jobs that went back, after the commit: inside its transaction the ends and the claim
    would wait for the one lock that every commit of a NOTIFY takes. Workers that are not told look later by themselves.
    """
    states = {finish.state for finish in finishes}
    payloads = [notify.ready(notify.ANY_QUEUE)] if State.READY in states else []
    payloads += [notify.DUE] if State.SCHEDULED in states else []
    if not payloads:
        return
    try:
        notify.send(connection, *payloads)
    except psycopg.Error as error:  # the next exchange notices a lost connection: this one's answer counts
        message = f"The other workers could not be told of jobs that went back: {str(error).strip()}"
        emit("queue.notify_failed", message, level=logging.WARNING)
