from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from pgonly_django.models import Job
from pgonly_django.models.job import FROM_THE_START, READY_AGAIN
from pgonly_django.models.job_rows import IS_LIMITED, IS_READY, IS_SUSPECT
from pgonly_django.queue.candidates import changes_of, claimable, sql_of
from pgonly_django.queue.claim import FLOOR, HEAD, claim_statement
from pgonly_django.queue.limited.claim import CANDIDATES_OF

ROWS = {"ready": IS_READY, "suspect": IS_SUSPECT, "limited": IS_LIMITED}


@pytest.mark.django_db
@pytest.mark.parametrize("rows", ROWS.values(), ids=list(ROWS))
def test_the_text_is_what_django_would_send(rows):
    jobs = claimable(rows).values("id")[:7]
    with CaptureQueriesContext(connection) as sent, transaction.atomic():
        list(jobs)
    (text,) = [each["sql"] for each in sent if each["sql"].startswith("SELECT")]
    assert sql_of(jobs) == text
    assert text.endswith("FOR UPDATE SKIP LOCKED")


@pytest.mark.django_db
@pytest.mark.parametrize("changes", [READY_AGAIN, FROM_THE_START], ids=["ready again", "from the start"])
def test_the_changes_are_what_django_would_send(changes):
    with CaptureQueriesContext(connection) as sent:
        Job.objects.update(**changes)
    (text,) = [each["sql"] for each in sent]
    table = connection.ops.quote_name(Job._meta.db_table)
    assert text.replace(f"{table}.", "") == f"UPDATE {table} SET {changes_of(changes)}"


# No access to the database: a claim does not fail because Django gets no connection.
@pytest.mark.parametrize("leaves_some", [False, True])
@pytest.mark.parametrize(("template", "locks"), [(HEAD, 2), (FLOOR, 1)], ids=["head", "floor"])
def test_a_claim_is_compiled_without_a_connection(template, locks, leaves_some):
    text = claim_statement.__wrapped__(template, False, leaves_some).sql
    assert text.count("FOR UPDATE SKIP LOCKED") == locks


@pytest.mark.parametrize("kind", CANDIDATES_OF)
def test_each_kind_of_limited_jobs_is_locked(kind):
    assert CANDIDATES_OF[kind].count("FOR UPDATE SKIP LOCKED") == 1
