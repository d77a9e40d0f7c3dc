"""The reports of running jobs on their way to the database: progress and log lines, which the main loop writes with its
exchanges, and the output. The end of a job is written after all that it has emitted.
"""

import json
import logging
import threading
from collections.abc import Iterable, Mapping

import psycopg

from pgonly_django.context.run import Run
from pgonly_django.context.unwritten import UnwrittenOutput
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import LOG_LINES_KEPT
from pgonly_django.queue.finish import Finish, Report
from pgonly_django.queue.output import SEEN, PartRow, SeenRow, keep, write_output
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import ROW_ERRORS
from pgonly_django.worker.in_flight import InFlight

INTERVAL_SECONDS = 0.25
# What one row's content can cause, and what the right to write this table: the ends of jobs continue.
REFUSED = (*ROW_ERRORS, psycopg.ProgrammingError)
CHARACTERS_AT_ONCE = 20_000_000  # of one statement: a message of 1 GB breaks the connection

# The main loop holds it from reports_of() until the reports are written, or put back; and while it writes output.
being_written = threading.Lock()


def reports_of(runs: Iterable[Run]) -> list[Report]:
    """Returns what jobs have reported since the last time, except those whose own transaction will write it."""
    return [
        _report(run) for run in runs if run.needs_report and not (run.keeps_snapshot or run.reports_itself)
    ]


def last_report_of(run: Run) -> list[Report]:
    """Returns what a job has reported that is not in its row, for its own transaction to write. Waits for a report that
    is under way: that may find the row locked by this very transaction, and be put back."""
    if any(each is not None for each in (run.progress, run.log_lines, run.unwritten)):
        with being_written:
            run.reports_itself = True
    return [_report(run)] if run.needs_report else []


def _report(run: Run) -> Report:
    run.needs_report = False  # before reading: what the job says from now on goes into the next report
    lines = []
    while run.log_lines:
        lines.append(run.log_lines.popleft())
    log_lines = json.dumps(lines) if lines else None
    return Report(run.job.id, run.job.lease_epoch, run.progress, log_lines)


def put_back(runs: Mapping[str, Run], reports: Iterable[Report]) -> None:
    """Puts back reports that could not be written, because the database was unavailable or the row locked: they are
    part of the next reports."""
    for report in reports:
        run = runs.get(report.id)
        if run is not None:
            if report.log_lines and run.log_lines is not None:
                room = LOG_LINES_KEPT - len(run.log_lines)
                run.log_lines.extendleft(reversed(json.loads(report.log_lines)[-room:] if room > 0 else []))
            run.needs_report = True


class OutputWriter:
    """Used by the main loop."""

    def __init__(self, database: WorkerConnection, in_flight: InFlight) -> None:
        self._database, self._in_flight = database, in_flight
        self._next_run = 0.0

    def run(self, now: float) -> None:
        """Writes what is new, if it is time. Ends wait for what their jobs have emitted, and are put off where it
        cannot be written now. While no job has emitted anything this looks at none."""
        if not self._in_flight.emitting or not (unwritten := self._unwritten(now)):
            return
        with being_written:
            refused = self._write(unwritten)
        for job_id in refused & self._in_flight.ended.keys():
            self._in_flight.put_off(job_id)

    def _unwritten(self, now: float) -> dict[str, UnwrittenOutput]:
        """Returns the jobs that have something to write, by their ids."""
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
        """Returns the ids of those that could not be written."""
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


def last_row_of(run: Run, finish: Finish | None) -> SeenRow | None:
    """Returns the last row to write of a run that has ended."""
    if run.unwritten is None or finish is None:
        return None
    run.unwritten.output.is_closed = True
    return run.unwritten.take(has_succeeded=finish.state is State.SUCCEEDED)


def written_of(connection: OwnConnection, rows: list[SeenRow]) -> set[str]:
    """Writes them. Returns the ids of jobs with nothing left to write. A refused row does not harm others."""
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


def write_last(alias: str, run: Run, finish: Finish) -> None:
    """Writes all that is left, on Django's connection, in the transaction that also writes the end."""
    row = last_row_of(run, finish)
    if row is not None:
        keep(alias, run.job.id, [PartRow(SEEN, row.place, row.start, row.text, row.starts_over)])
