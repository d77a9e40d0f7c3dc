"""django-postgres-extra's database backend, under everything of ours."""

from __future__ import annotations

import pytest
from django.core import checks
from django.core.cache import cache
from django.db import connection, transaction

from pgonly_django.models import Job, Session
from pgonly_django.sessions import SessionStore
from tests.jobs import add, count_to

pytestmark = pytest.mark.slow


def test_the_checks_take_the_backend_for_postgresql(transactional_db):
    assert connection.settings_dict["ENGINE"] == "psqlextra.backend"
    assert [each.id for each in checks.run_checks(databases=["default"]) if "pgonly" in (each.id or "")] == []


def test_jobs_sessions_and_the_cache_work(work):
    with transaction.atomic():
        results = [add.enqueue(n, b=1) for n in range(8)] + [count_to.enqueue(3)]
        store = SessionStore()
        store["a"] = 1
        store.save()
    work()
    assert Job.objects.filter(state="succeeded").count() == 9
    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [*range(1, 9), 5]
    assert (SessionStore(store.session_key)["a"], Session.objects.count()) == (1, 1)
    cache.set("colour", "red")
    assert (cache.get("colour"), cache.add("number", 1), cache.incr("number")) == ("red", True, 2)
