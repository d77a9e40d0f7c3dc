"""What running jobs emit, on its way to the table. The end of a job is written after all that it has emitted."""

import logging

import psycopg

from pgonly_django.context.output import UnwrittenOutput
from pgonly_django.context.run import Run
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.output import SEEN, Kept, Said, keep, write_output
from pgonly_django.worker import reports
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import ROW_ERRORS
from pgonly_django.worker.in_flight import InFlight

INTERVAL_SECONDS = 0.25
# What one row's content can cause, and what the right to write this table: the ends of jobs go on.
REFUSED = (*ROW_ERRORS, psycopg.ProgrammingError)
CHARACTERS_AT_ONCE = 20_000_000  # of one statement: a message of 1 GB breaks the connection


class OutputWriter:
    """Used by the main loop."""

    def __init__(self, database: WorkerConnection, in_flight: InFlight) -> None:
        self._database, self._in_flight = database, in_flight
        self._next_run = 0.0

    def run_once(self, now: float) -> None:
        """Write what is new, if it is time. Ends wait for what their jobs have emitted, and are put off where it cannot
        be written now. While no job has emitted anything this looks at none."""
        if not self._in_flight.emitting or not (unwritten := self._unwritten(now)):
            return
        with reports.being_written:
            refused = self._write(unwritten)
        for job_id in refused & self._in_flight.ended.keys():
            self._in_flight.put_off(job_id)

    def _unwritten(self, now: float) -> dict[str, UnwrittenOutput]:
        """What has something to write, by the ids of the jobs."""
        in_flight, unwritten, is_time = self._in_flight, {}, now >= self._next_run
        if is_time:
            self._next_run = now + INTERVAL_SECONDS
        for run in tuple(in_flight.emitting):
            job_id, output = run.job.id, run.unwritten
            if in_flight.runs.get(job_id) is not run:
                in_flight.emitting.discard(run)
            elif output is not None:
                has_ended = job_id in in_flight.ended
                if in_flight.is_due(job_id, now) if has_ended else is_time and output.has_news:
                    unwritten[job_id] = output
        return unwritten

    def _write(self, unwritten: dict[str, UnwrittenOutput]) -> set[str]:
        """The ids of those that could not be written."""
        rows = {}
        for job_id, each in unwritten.items():
            run = self._in_flight.runs[job_id]
            ended = self._in_flight.ended.get(job_id)
            if run.reports_itself and ended is None:
                continue  # its own transaction writes all, and is about to end
            row = last_row_of(run, ended.finish) if ended is not None else each.take()
            if row is not None:
                rows[job_id] = row
        if not rows:
            return set()
        written = self._database.ask(lambda connection: written_of(connection, list(rows.values())))
        for job_id in rows:
            if written is not None and job_id in written:
                unwritten[job_id].note_written()
            else:
                unwritten[job_id].put_back()
        return rows.keys() - (written or set())


def last_row_of(run: Run, finish: Finish | None) -> Said | None:
    """What is left to write of a run that ends so."""
    if run.unwritten is None or finish is None:
        return None
    run.unwritten.close()
    return run.unwritten.take(has_succeeded=finish.state is State.SUCCEEDED)


def written_of(connection: OwnConnection, rows: list[Said]) -> set[str]:
    """Write them. The ids of the jobs with nothing left to write. What PostgreSQL refuses of one harms no other."""
    if len(rows) > 1 and sum(len(row.text) for row in rows) > CHARACTERS_AT_ONCE:
        middle = len(rows) // 2
        return written_of(connection, rows[:middle]) | written_of(connection, rows[middle:])
    try:
        return write_output(connection, rows)
    except TRY_AGAIN:
        return set()
    except REFUSED as error:
        if len(rows) == 1:
            message = f"Output of {rows[0].id} not stored: {error}"
            emit("worker.output_refused", message, level=logging.WARNING)
            return {rows[0].id}
    return {job_id for row in rows for job_id in written_of(connection, [row])}


def write_last(alias: str, run: Run, finish: Finish) -> bool:
    """All that is left, on Django's connection, in the transaction that also writes the end. Whether there was any."""
    row = last_row_of(run, finish)
    if row is not None:
        keep(alias, run.job.id, [Kept(SEEN, row.place, row.start, row.text, row.starts_over)])
    return row is not None
