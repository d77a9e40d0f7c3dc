"""django-reversion: revisions of what a view or a job writes."""

from __future__ import annotations

import pytest
import reversion
from django.http import HttpResponse
from django.urls import path
from reversion.models import Version
from reversion.views import create_revision

from pgonly_django import task
from pgonly_django.models import Job
from tests.neighbours.library.jobs import write
from tests.neighbours.library.models import Paper

reversion.register(Paper)


@task
def write_a_revision(title):
    with reversion.create_revision():
        paper = Paper.objects.create(title=title)
        reversion.set_comment("by a job")
    return paper.pk


@create_revision()
def publish(request):
    """In reversion's transaction."""
    paper = Paper.objects.create(title="On rivers")
    write.enqueue("On lakes")
    if "fail" in request.GET:
        raise ZeroDivisionError
    return HttpResponse(paper.pk)


urlpatterns = [path("publish/", publish)]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


def test_a_job_makes_a_revision(work):
    result = write_a_revision.enqueue("On rivers")
    work()
    result.refresh()
    (version,) = Version.objects.get_for_object(Paper.objects.get(pk=result.return_value))
    assert version.revision.comment == "by a job"


def test_a_job_is_enqueued_with_the_revision_or_not_at_all(work, client):
    client.raise_request_exception = False
    assert client.post("/publish/?fail").status_code == 500
    assert (Job.objects.count(), Version.objects.count()) == (0, 0)
    assert client.post("/publish/").status_code == 200
    work()
    assert (Version.objects.count(), sorted(paper.title for paper in Paper.objects.all())) == (
        1,
        ["On lakes", "On rivers"],
    )
