"""Writes progress and log lines of running jobs, in batches, fenced by the lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgonly_django.database.statement import Params
from pgonly_django.models.job import LOG_LINES_KEPT
from pgonly_django.tables import qualified


@dataclass(frozen=True, slots=True)
class Report:
    """What one running job reports. JSON values are text already; None leaves the column alone."""

    id: str
    lease_epoch: int
    progress: str | None
    log_lines: str | None


# Index: the primary key (for "state || ''" see queue/finish.py). REPORT skips rows that others have locked:
# the worker's next report has them. LAST_REPORT runs in the job's own transaction, has no next report, and waits.
LAST_REPORT = qualified(f"""
WITH report AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(lease_epochs)s::int[], %(progress)s::text[], %(lines)s::text[])
        AS r(id, lease_epoch, progress, lines)
),
free AS MATERIALIZED (
    SELECT job.id FROM pgonly_job AS job JOIN report ON job.id = report.id AND job.lease_epoch = report.lease_epoch
    WHERE job.state || '' = 'running' FOR NO KEY UPDATE OF job
)
UPDATE pgonly_job AS job SET
    progress = coalesce(report.progress::jsonb, job.progress),
    reported_at = clock_timestamp(),
    log = CASE WHEN report.lines IS NULL THEN job.log ELSE (
        SELECT jsonb_agg(line ORDER BY place) FROM (
            SELECT line, place FROM jsonb_array_elements(job.log || report.lines::jsonb)
                WITH ORDINALITY AS l(line, place) ORDER BY place DESC LIMIT {LOG_LINES_KEPT}
        ) AS newest
    ) END
FROM report WHERE job.id = report.id AND job.id = ANY (ARRAY (SELECT id FROM free))
RETURNING job.id::text
""")
REPORT = LAST_REPORT.replace("FOR NO KEY UPDATE OF job", "FOR NO KEY UPDATE OF job SKIP LOCKED")


def report_parameters(reports: Sequence[Report]) -> Params:
    """The parameters of REPORT and LAST_REPORT."""
    return {
        "ids": [report.id for report in reports],
        "lease_epochs": [report.lease_epoch for report in reports],
        "progress": [report.progress for report in reports],
        "lines": [report.log_lines for report in reports],
    }
