"""django-prometheus's database engine, under everything of ours."""

from __future__ import annotations

import pytest
from django.core import checks
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import include, path
from prometheus_client import REGISTRY

from pgonly_django.models import Job
from tests.jobs import add, count_to


def visit(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


urlpatterns = [path("", include("django_prometheus.urls")), path("visit/", visit)]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


def executed():
    labels = {"alias": "default", "vendor": "postgresql"}
    return REGISTRY.get_sample_value("django_db_execute_total", labels) or 0


def test_the_checks_take_the_engine_for_postgresql(transactional_db):
    assert connection.settings_dict["ENGINE"] == "django_prometheus.db.backends.postgresql"
    assert [each.id for each in checks.run_checks(databases=["default"]) if "pgonly" in (each.id or "")] == []


def test_jobs_are_enqueued_in_the_transaction_and_run(work):
    with transaction.atomic():
        results = [add.enqueue(n, b=1) for n in range(8)]
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            add.enqueue(9)
            raise ZeroDivisionError
    results.append(count_to.enqueue(3))
    work()
    assert Job.objects.filter(state="succeeded").count() == 9
    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [*range(1, 9), 5]


def test_its_figures_count_what_goes_over_djangos_connection(transactional_db):
    list(Job.objects.all())
    for look in (lambda: list(Job.objects.all()), lambda: add.enqueue(1)):
        before = executed()
        look()
        assert executed() > before
