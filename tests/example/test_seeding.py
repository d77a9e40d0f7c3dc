"""What `manage.py demo` fills its own database with."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db.models import Sum
from django.utils import timezone

from example_project.screening.demo import seeding
from example_project.screening.demo.seeding import rows
from example_project.screening.demo.seeding.users import OPERATOR, READER
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from pgonly_django.models import (
    Budget,
    CacheUsage,
    CostEntry,
    DurableCacheEntry,
    Job,
    JobStats,
    Limiter,
    LimiterSlot,
    Queue,
    Schedule,
    Session,
    State,
    Step,
    Tick,
    Worker,
)
from pgonly_django.scheduling.due import timing_of
from pgonly_django.sessions.devices import device_name
from tests.queue.rows import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def of_the_example(settings):
    settings.SESSION_ENGINE = "pgonly_django.sessions"


def counts():
    models = (Job, Tick, Queue, Limiter, Budget, Schedule, Worker, Session, DurableCacheEntry, User)
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
    assert Session.objects.active().count() == 21
    assert DurableCacheEntry.objects.count() == 25
    assert CacheUsage.objects.get(name__contains="answers").hits == 6
    papers = Paper.objects.of(Project.objects.get())
    assert papers.judged().count() == 40
    assert papers.of_outcome(Outcome.DISPUTED).exists()
    the_dead_worker_holds_two_jobs_which_are_taken_over_a_minute_later()
    an_operator_may_operate_and_a_reader_only_see_and_neither_sees_data()
    the_charts_count_the_jobs_that_the_lists_show()
    what_is_spent_of_each_budget_is_the_sum_of_its_costs()
    each_job_runs_after_it_was_enqueued_and_on_a_worker_that_lived_then()
    each_step_is_of_a_run_of_its_job()
    each_tick_is_due_when_its_schedule_says_and_its_job_is_there_unless_it_was_pruned()
    each_device_has_a_name_and_was_used_after_its_login()


def the_charts_count_the_jobs_that_the_lists_show():
    for state in (State.SUCCEEDED, State.FAILED):
        counted = JobStats.objects.filter(granularity="hour").aggregate(sum=Sum(state))["sum"]
        assert counted == Job.objects.filter(state=state).count()
    runs = sum(len(rows.runs_of(job)) for job in Job.objects.filter(state=State.SUCCEEDED))
    counted = [sum(stats.run_times) for stats in JobStats.objects.filter(granularity="hour", failed=0)]
    assert sum(counted) > runs / 2


def what_is_spent_of_each_budget_is_the_sum_of_its_costs():
    for budget in Budget.objects.with_spent_now():
        costs = CostEntry.objects.filter(budget=budget.name)
        if budget.per == "day":
            costs = costs.filter(at__gte=budget.period_start)
        assert costs.aggregate(sum=Sum("usd", default=Decimal(0)))["sum"] == budget.spent_now, budget.name
    for step in Step.objects.exclude(usd=None):
        assert CostEntry.objects.get(job_id=step.job_id, step=step.name).usd == step.usd


def each_job_runs_after_it_was_enqueued_and_on_a_worker_that_lived_then():
    workers = {worker.pk: worker for worker in Worker.objects.all()}
    now = timezone.now()
    for job in Job.objects.all():
        moments = [job.enqueued_at, *(at for run in rows.runs_of(job) for at in run[1:])]
        assert sorted(moments) == moments and moments[-1] <= now, job.task
        if (worker := workers.get(job.worker_id)) is not None:
            assert worker.started_at <= job.attempted_at <= worker.heartbeat_at, job.task


def each_step_is_of_a_run_of_its_job():
    for job in Job.objects.filter(steps__isnull=False).distinct():
        runs = rows.runs_of(job)
        for step in job.steps.all():
            assert any(run.began < step.finished_at <= run.ended for run in runs), (job.task, step.name)


def each_tick_is_due_when_its_schedule_says_and_its_job_is_there_unless_it_was_pruned():
    assert Tick.objects.count() == 31
    for tick in Tick.objects.select_related("schedule"):
        timing = timing_of(tick.schedule)
        assert timing.next_after(tick.tick_at - timedelta(seconds=1)) == tick.tick_at, tick.schedule_id
        is_kept = tick.job_id is not None and timezone.now() - tick.tick_at < timedelta(days=6.9)
        assert not is_kept or Job.objects.filter(pk=tick.job_id, run_at=tick.tick_at).exists()


def each_device_has_a_name_and_was_used_after_its_login():
    for session in Session.objects.all():
        assert re.fullmatch(r"(Firefox|Safari|Chrome) \d+ on \w+", device_name(session.user_agent))
        assert session.created_at < session.last_seen_at < timezone.now() < session.expires_at


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
    what_is_spent_of_each_budget_is_the_sum_of_its_costs()
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
