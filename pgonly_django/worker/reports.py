"""Progress and log lines on their way from running jobs to their rows: the main loop writes them with its exchanges."""

import json
import threading
from collections.abc import Iterable, Mapping

from pgonly_django.context.run import Run
from pgonly_django.models.job import LOG_LINES_KEPT
from pgonly_django.queue.progress import Report

# The main loop holds it from reports_of() until the reports are written, or put back; and while it writes output.
being_written = threading.Lock()


def reports_of(runs: Iterable[Run]) -> list[Report]:
    """What jobs have said since their last report, but for those whose own transaction will write it."""
    return [
        _report(run) for run in runs if run.needs_report and not (run.keeps_snapshot or run.reports_itself)
    ]


def last_report_of(run: Run) -> list[Report]:
    """What a job has said that is not in its row, for its own transaction to write. Waits for a report that is under
    way: that may find the row locked by this very transaction, and be put back."""
    if _has_said_anything(run):
        with being_written:
            run.reports_itself = True
    return [_report(run)] if run.needs_report else []


def _has_said_anything(run: Run) -> bool:
    return any(each is not None for each in (run.progress, run.log_lines, run.unwritten))


def _report(run: Run) -> Report:
    run.needs_report = False  # before reading: what the job says from now on goes into the next report
    lines = []
    while run.log_lines:
        lines.append(run.log_lines.popleft())
    log_lines = json.dumps(lines) if lines else None
    return Report(run.job.id, run.job.lease_epoch, run.progress, log_lines)


def put_back(runs: Mapping[str, Run], reports: Iterable[Report]) -> None:
    """These could not be written, the database being away or the row locked: they are part of the next reports."""
    for report in reports:
        run = runs.get(report.id)
        if run is not None:
            if report.log_lines and run.log_lines is not None:
                room = LOG_LINES_KEPT - len(run.log_lines)
                run.log_lines.extendleft(reversed(json.loads(report.log_lines)[-room:] if room > 0 else []))
            run.needs_report = True
