"""What is judged of queues and workers, as the doctor says it."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.models import Queue
from pgonly_django.monitoring import conditions
from pgonly_django.monitoring.findings import Condition, Level
from pgonly_django.queue.batches import end_of
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import DAY, HOUR, ago, make, make_running, make_waiting, make_worker

pytestmark = pytest.mark.django_db
SILENT = timedelta(minutes=20)


def test_the_words_of_a_finding_have_numbers_with_their_nouns_times_sizes_and_names_of_sql():
    fact = "{count:n job} for {seconds:time} in {table:sql}, {many:names}, {part:.0%}"
    finding = Condition("D999", Level.INFO, fact, "{_advice}", error_from=100).finding(
        count=1204, seconds=425.7, table='a"b', many=list("abcdefg"), part=0.5,
        _advice="Look.",
    )  # fmt: skip
    assert finding.fact == ('1,204 jobs for 7 min 5 s in "a""b", a, b, c, d, e and 2 more, 50%')
    assert (finding.level, finding.advice, "_advice" in finding.data) == (Level.ERROR, "Look.", False)


def test_waits_for_an_event_without_a_deadline_that_are_older_than_a_week():
    make_worker()
    waits = [make_waiting(f"approve:{number}", since=(8 + number) * DAY) for number in range(7)]
    (
        make_waiting("young", since=6 * DAY),
        make_waiting("ends", since=9 * DAY, until=ago(-HOUR)),
        make_waiting(None),
    )
    make_waiting(end_of(str(uuid4()), 1), since=99 * DAY)
    finding = found("queues")["D114"]
    assert finding.level == Level.WARNING
    assert finding.fact == (
        "7 jobs wait for an event without a deadline for more than 7 d, the oldest for 14 d: "
        "approve:6, approve:5, approve:4, approve:3, approve:2 and 2 more."
    )
    assert f"manage.py pgonly_jobs cancel {waits[6].job_id}" in finding.advice
    for wait in waits[1:]:
        send_event(wait.key)
    fact = "1 job waits for an event without a deadline for more than 7 d: approve:0."
    assert found("queues")["D114"].fact == fact
    send_event(waits[0].key)
    assert "D114" not in found("queues")


def test_a_queue_that_no_live_worker_serves():
    make_worker(queues=["mail"])
    make(queue="ai", ready_at=ago(timedelta(minutes=1)))
    make(queue="mail")
    findings = found("queues")
    assert list(findings) == ["D111"]
    assert findings["D111"].level == Level.ERROR
    assert "“ai”: 1 job waits, for 1 min" in findings["D111"].fact
    assert findings["D111"].advice.endswith("manage.py runworker --queues ai")


def test_a_worker_that_is_just_being_replaced_is_no_finding():
    make(queue="ai", ready_at=ago(timedelta(seconds=3)))
    assert found("queues") == {}


@pytest.mark.parametrize(
    ("waited", "level"), [(timedelta(minutes=6), Level.WARNING), (2 * HOUR, Level.ERROR)]
)
def test_jobs_that_wait_long_although_a_worker_is_there(waited, level):
    make_worker(queues=[])
    make(queue="ai", ready_at=ago(waited))
    make(queue="ai")
    finding = found("queues")["D112"]
    assert finding.level == level
    assert finding.data["waiting"] == 2
    assert finding.data["oldest_seconds"] >= waited.total_seconds()


def test_a_paused_queue_waits_for_a_person():
    Queue.objects.create(name="ai", paused_at=timezone.now())
    make(queue="ai", ready_at=ago(2 * HOUR))
    findings = found("queues")
    assert list(findings) == ["D113"]
    assert findings["D113"].level == Level.INFO


def test_without_a_worker():
    assert found("workers")["D121"].level == Level.INFO
    make()
    finding = found("workers")["D121"]
    assert finding.level == Level.WARNING
    assert "manage.py runworker" in finding.advice


def test_a_silent_worker_that_holds_a_job():
    make_worker(name="live")
    worker = make_worker(SILENT, name="w7", hostname="node7", pid=123, running=1)
    job = make_running(worker.pk, attempted_at=ago(SILENT))
    findings = found("workers")
    assert list(findings) == ["D122"]
    finding = findings["D122"]
    assert finding.level == Level.ERROR
    assert "w7 (node7, process 123) has been silent for 20 min and holds 1 job" in finding.fact
    assert finding.data["jobs"] == [str(job.pk)]


def test_nobody_is_said_to_take_over_where_no_worker_is_live():
    make_running(make_worker(SILENT, name="w7").pk)
    assert "No worker is live that could take over" in found("workers")["D122"].fact
    make_worker(name="live")
    assert "Another worker takes over when their leases end" in found("workers")["D122"].fact


@pytest.mark.parametrize(
    ("silent", "jobs", "level"), [(timedelta(seconds=40), 1, Level.WARNING), (SILENT, 0, Level.INFO)]
)
def test_one_that_is_late_is_a_warning_and_one_that_died_without_jobs_a_note(silent, jobs, level):
    make_worker(name="live")
    worker = make_worker(silent, name="w7")
    for _ in range(jobs):
        make_running(worker.pk)
    assert found("workers")["D122"].level == level


def test_a_threshold_stands_once_for_the_doctor_the_overview_and_the_checks(admin_client, monkeypatch):
    pytest.importorskip("health_check")
    from pgonly_django.monitoring.health_checks import NotifyArrives, QueueLatency, WorkersAlive

    make_worker(queues=["mail"]), make(queue="ai", ready_at=ago(HOUR / 2))
    for limit, is_told in ((HOUR / 3, True), (HOUR, False)):
        monkeypatch.setattr(conditions.QUEUE_UNSERVED, "limit", limit.total_seconds())
        monkeypatch.setattr(conditions.QUEUE_LATE, "limit", limit.total_seconds())
        assert ("D111" in found("queues")) == is_told
        assert ("No live worker serves" in admin_client.get("/admin/pgonly_django/").text) == is_told
    limits = conditions.NO_WORKER.limit, conditions.NOTIFY_LOST.limit
    assert (WorkersAlive().min_workers, NotifyArrives().max_seconds) == limits
    assert QueueLatency().max_seconds == 300
