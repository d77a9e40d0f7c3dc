"""django-auditlog: what a job changes is in its log."""

from __future__ import annotations

import pytest
from auditlog.context import set_actor
from auditlog.models import LogEntry
from auditlog.registry import auditlog
from django.contrib.auth.models import User

from pgonly_django import task
from tests.neighbours.library.jobs import write
from tests.neighbours.library.models import Paper

pytestmark = pytest.mark.slow

auditlog.register(Paper)


@task
def write_in_the_name_of(user, title):
    with set_actor(User.objects.get(pk=user)):
        Paper.objects.create(title=title)


def test_what_a_job_writes_is_logged_without_and_with_an_actor(work):
    ann = User.objects.create(username="ann")
    write.enqueue("On rivers")
    write_in_the_name_of.enqueue(ann.pk, "On lakes")
    work(threads=1)
    found = {entry.object_repr: entry.actor for entry in LogEntry.objects.get_for_model(Paper)}
    assert found == {"On rivers": None, "On lakes": ann}
