"""What `manage.py demo` fills its own database with."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from example_project.screening.demo import seeding
from example_project.screening.demo.seeding.users import OPERATOR, READER
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from pgonly_django.models import (
    Budget,
    CacheUsage,
    DurableCacheEntry,
    Job,
    JobStats,
    Limiter,
    LimiterSlot,
    Queue,
    Schedule,
    Session,
    State,
    Worker,
)
from tests.queue.rows import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def of_the_example(settings):
    settings.SESSION_ENGINE = "pgonly_django.sessions"


def counts():
    models = (Job, JobStats, Queue, Limiter, Budget, Schedule, Worker, Session, DurableCacheEntry, User)
    return {model.__name__: model.objects.count() for model in models}


def test_each_page_has_something_to_show():
    """One test, since a seeding takes a second."""
    assert seeding.seed()
    assert set(Job.objects.values_list("state", flat=True)) == set(State)
    assert Job.objects.held("budget:translations").count() == 2
    assert Queue.objects.exclude(paused_at=None).count() == 1
    assert Limiter.objects.filter(blocked_until__gt=timezone.now()).count() == 1
    assert LimiterSlot.objects.filter(expires_at__gt=timezone.now()).count() == 5
    assert Schedule.objects.count() == 4
    assert Session.objects.active().count() == 19
    assert DurableCacheEntry.objects.count() == 25
    assert CacheUsage.objects.get(name__contains="answers").hits == 6
    papers = Paper.objects.of(Project.objects.get())
    assert papers.judged().count() == 40
    assert papers.of_outcome(Outcome.DISPUTED).exists()
    the_dead_worker_holds_two_jobs_which_are_taken_over_a_minute_later()
    an_operator_may_operate_and_a_reader_only_see_and_neither_sees_data()


def the_dead_worker_holds_two_jobs_which_are_taken_over_a_minute_later():
    dead = Worker.objects.get(name="demo-dead")
    assert not dead.is_live(timezone.now())
    ends = Job.objects.filter(worker_id=dead.pk, state=State.RUNNING).values_list(
        "lease_expires_at", flat=True
    )
    assert len(ends) == 2
    assert all(timedelta(seconds=30) < end - timezone.now() <= timedelta(seconds=60) for end in ends)


def an_operator_may_operate_and_a_reader_only_see_and_neither_sees_data():
    operator, reader = User.objects.get(username=OPERATOR), User.objects.get(username=READER)
    assert operator.has_perm("pgonly_django.operate_job")
    assert not reader.has_perm("pgonly_django.operate_job")
    for user in (operator, reader):
        assert user.has_perms(["pgonly_django.view_job", "pgonly_django.view_session"])
        assert not user.has_perm("pgonly_django.view_job_data")
        assert not user.has_perm("pgonly_django.view_session_data")
        assert not user.has_usable_password()
    seeding.let_roles_in("a password")
    assert User.objects.get(username=READER).check_password("a password")


def test_a_second_call_writes_the_same_again_and_leaves_rows_of_others():
    ours = make(task="example_project.screening.tasks.screen_project", queue="mail")
    Queue.objects.named("ours").pause()
    mine = Project.objects.create(name="Ours", question="?", criteria="?")
    seeding.seed()
    first = counts()
    Queue.objects.named("exports").resume()
    Paper.objects.filter(position=1).update(decided="include")  # which a person did
    seeding.seed()
    assert counts() == first
    assert Queue.objects.get(name="exports").paused_at is not None
    assert Paper.objects.get(position=1).decided == "include"
    assert Job.objects.get(pk=ours.pk).state == State.READY
    assert Queue.objects.get(name="ours").paused_at is not None
    assert Project.objects.filter(pk=mine.pk).exists()


def test_a_database_with_jobs_of_another_project_is_left_alone():
    make(task="shop.tasks.send_mail")
    with pytest.raises(seeding.ForeignDatabaseError, match=r"jobs of shop\.tasks\.send_mail"):
        seeding.seed()
    assert not Queue.objects.exists()
