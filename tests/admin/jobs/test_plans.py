"""What the job list asks on every visit keeps to indexes, on a table of 100,000 finished jobs."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.contrib.admin.sites import site
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.jobs.page import newest_steps, sums_of
from pgonly_django.admin.jobs.verbs import CANCEL, DISCARD, HOLD, RESUME, RETRY, RUN_NOW
from pgonly_django.admin.paging import oldest_of_newest
from pgonly_django.models import Job, Step
from pgonly_django.queue.known_names import KNOWN_ERRORS, KNOWN_QUEUES, KNOWN_TASKS
from tests.queue.rows import insert_jobs
from tests.tasks import calls

ROWS = insert_jobs(
    "generate_series(1, 100000) AS i",
    id="('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid",
    queue="'queue ' || i % 5",
    state="""CASE WHEN i % 1000 = 0 THEN 'running' WHEN i <= 100 THEN 'ready'
        WHEN i % 1000 = 1 THEN 'failed' ELSE 'succeeded' END""",
    crashes="(i <= 100 AND i % 4 = 1)::int",
    worker_id="gen_random_uuid()",
    lease_expires_at="now()",
    delete_after="now() + interval '7 days'",
    enqueued_by="CASE WHEN i % 500 = 3 THEN 'job:3' END",
)
VERBS = (RESUME, RUN_NOW, RETRY, HOLD, CANCEL, DISCARD)
STEPS = """
INSERT INTO pgonly_step (job_id, name)
SELECT id, 'step ' || n
FROM (SELECT id FROM pgonly_job ORDER BY id LIMIT 500) AS job, generate_series(1, 40) AS n
"""


@pytest.fixture(scope="module")
def big_table(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(ROWS)
        cursor.execute(STEPS)
        cursor.execute("ANALYZE pgonly_job, pgonly_step")
        yield
        cursor.execute("TRUNCATE pgonly_job CASCADE")


@pytest.fixture
def plan(big_table, db):
    """EXPLAIN ANALYZE of a queryset or a statement."""

    def explain(query):
        if isinstance(query, str):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE) {query}")
                return "\n".join(line for (line,) in cursor.fetchall())
        return query.explain(analyze=True)

    return explain


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """The plans are those of the whole table, also on a machine that is busy."""
    for limit in ("quick_limit", "statement_limit", "search_limit"):
        monkeypatch.setattr(JobChangeList, limit, timedelta(minutes=1))


def rows_read(plan):
    """The most rows that one node of the plan returned or threw away."""
    counts = re.findall(r"actual time=\S+ rows=(\d+)", plan) + re.findall(r"Removed by Filter: (\d+)", plan)
    return max(map(int, counts))


def listed(admin_user, query="", model=Job):
    request = RequestFactory().get(f"/{query}")
    request.user = admin_user
    return site.get_model_admin(model).get_changelist_instance(request)


def test_a_page_of_the_list_reads_that_page_alone(plan, admin_user):
    found = plan(listed(admin_user).queryset[:50])
    assert "Index Scan Backward using pgonly_job_pkey" in found
    assert rows_read(found) == 50


def test_the_count_reads_no_more_than_its_cap(plan, admin_user):
    paginator = listed(admin_user).paginator
    assert paginator.count_label == "10,000+"
    assert rows_read(plan(paginator.object_list.order_by().values("pk")[:10_001])) == 10_001


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("state", "indexes", "rows"),
    [
        ("running", ["pgonly_job_running"], 100),
        ("ready", ["pgonly_job_ready", "pgonly_job_suspect", "pgonly_job_limited"], 100),
        ("held", ["pgonly_job_held"], 0),
        ("scheduled", ["pgonly_job_scheduled"], 0),
        ("failed", ["pgonly_job_failed"], 50),
    ],
)
def test_all_states_but_succeeded_and_cancelled_are_found_through_their_own_index(
    plan, admin_user, state, indexes, rows
):
    found = plan(listed(admin_user, f"?state__exact={state}").queryset[:50])
    assert all(index in found for index in indexes), found
    assert rows_read(found) == rows


@pytest.mark.parametrize(
    ("state", "index", "rows"),
    [("running", "running", 100), ("scheduled", "scheduled", 0), ("failed", "failed", 100)],
)
def test_a_tab_that_is_sorted_by_time_reads_the_jobs_of_its_state_alone(plan, admin_user, state, index, rows):
    for order in ("4", "-4"):
        found = plan(listed(admin_user, f"?state__exact={state}&o={order}").queryset[:50])
        assert f"pgonly_job_{index}" in found, found
        assert rows_read(found) <= rows


def test_the_oldest_jobs_are_found_by_the_primary_key(plan, admin_user):
    found = plan(listed(admin_user, "?o=5").queryset[:50])
    assert "Index Scan using pgonly_job_pkey" in found
    assert rows_read(found) == 50


def test_late_jobs_are_found_through_the_indexes_of_what_waits(plan, admin_user):
    found = plan(listed(admin_user, "?late=60").queryset[:50])
    for index in ("ready", "suspect", "limited", "scheduled"):
        assert f"pgonly_job_{index}" in found
    assert "Seq Scan on pgonly_job " not in found
    assert rows_read(found) <= 100


@pytest.mark.parametrize("reason", ["any", "lease", "progress"])
def test_stuck_jobs_are_found_among_the_running_ones(plan, admin_user, reason):
    found = plan(listed(admin_user, f"?stuck={reason}").queryset[:50])
    assert "pgonly_job_running" in found
    assert "Seq Scan on pgonly_job " not in found
    assert rows_read(found) <= 100


def test_jobs_of_a_time_of_enqueue_are_found_through_the_primary_key(plan, admin_user):
    for query in ("?time=enqueued-hour", "?from=2026-01-01T00:00&until=2026-01-02T00:00"):
        found = plan(listed(admin_user, query).queryset[:50])
        assert "pgonly_job_pkey" in found, found
        assert rows_read(found) == 0


def test_the_counts_of_all_tabs_read_no_more_than_their_caps(plan, admin_user):
    with CaptureQueriesContext(connection) as queries:
        listed(admin_user)
    (counts,) = [query["sql"] for query in queries if "AS counted" in query["sql"]]
    found = plan(counts)
    for index in ("running", "ready", "suspect", "limited", "scheduled", "held", "failed", "cancelled"):
        assert f"pgonly_job_{index}" in found
    assert rows_read(found) <= 10_001


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_what_a_verb_may_change_is_found_through_the_indexes_of_its_states(plan, admin_user, verb):
    rows = Job.objects.filter(verb.allowed).order_by("-pk").values_list("pk", flat=True)[:10_001]
    found = plan(rows)
    for state in verb.states:
        assert f"pgonly_job_{state}" in found, found
    assert "Seq Scan on pgonly_job\n" not in found


@pytest.mark.parametrize(
    ("known", "indexes"),
    [
        (KNOWN_QUEUES, ["pgonly_job_ready", "pgonly_job_running"]),
        (KNOWN_TASKS, ["using pgonly_job_pkey"]),
        (KNOWN_ERRORS, ["pgonly_job_failed"]),
    ],
    ids=["queues", "tasks", "errors"],
)
def test_known_names_are_found_by_loose_scans_and_in_the_newest_rows(plan, known, indexes):
    found = plan(known)
    assert all(index in found for index in indexes), found
    assert "Seq Scan" not in found
    assert rows_read(found) <= 1000 + 200


def test_jobs_that_failed_with_an_error_are_found_among_the_failed_ones(plan, admin_user):
    found = plan(listed(admin_user, "?error=builtins.ValueError").queryset[:50])
    assert "pgonly_job_failed" in found
    assert "Seq Scan on pgonly_job " not in found


@pytest.mark.parametrize("term", ["needle", "b=2"])
def test_a_narrowed_search_reads_the_newest_rows_alone(plan, admin_user, term):
    rows = listed(admin_user, f"?{urlencode({'q': term})}").queryset
    assert (calls.add.module_path in str(rows.query)) is ("=" in term)
    found = plan(rows.filter(pk__gte=oldest_of_newest(rows, 1000))[:50])
    assert "pgonly_job_pkey" in found
    assert rows_read(found) == 1000


def test_the_jobs_that_a_job_has_enqueued_are_found_by_their_own_index(plan, admin_user):
    children = Job.objects.filter(enqueued_by="job:3")
    for rows in (children.order_by("pk")[:21], listed(admin_user, "?enqueued_by=job:3").queryset[:50]):
        found = plan(rows)
        assert "pgonly_job_enqueued_by" in found, found
        assert rows_read(found) <= 50
    assert rows_read(plan(children.values("pk")[:10_001])) == 200


def test_the_steps_of_a_job_are_found_through_their_job(plan):
    found = plan(newest_steps(Step.objects.filter(job=Job.objects.order_by("pk").first())))
    assert "pgonly_step_once" in found
    assert rows_read(found) == 40


def test_the_costs_of_a_job_are_added_up_through_its_steps(plan):
    steps = Step.objects.filter(job=Job.objects.order_by("pk").first())
    with CaptureQueriesContext(connection) as queries:
        assert sums_of(steps)["count"] == 40
    (query,) = queries.captured_queries
    found = plan(query["sql"])
    assert "pgonly_step_once" in found
    assert rows_read(found) == 40
