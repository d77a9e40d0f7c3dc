from __future__ import annotations

from tests import jobs
from tests.jobs import ending


def test_a_traceback_begins_in_the_job(work):
    results = [
        jobs.fail.using(max_attempts=1).enqueue("broken"),
        ending.exit_async.using(max_attempts=1).enqueue(),
    ]
    work()
    for result in results:
        first_frame = result.job.errors[-1]["traceback"].splitlines()[1]
        assert "tests/jobs/" in first_frame
