from __future__ import annotations

from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests.queue.rows import HOUR, ago, fresh, make_running, make_worker


def test_a_worker_back_from_a_long_silence_declares_no_other_dead_at_once(transactional_db, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}  # the server itself has to have been up for half of it
    silent = make_worker(silent_for=HOUR)
    job = make_running(silent.id, lease_expires_at=ago(HOUR))
    heartbeat = WorkerLoop(WorkerOptions()).threads.heartbeat
    with connect("default", application_name="pgonly tests") as server:
        _beat_through_a_gap(heartbeat, server, job, silent)


def _beat_through_a_gap(heartbeat, server, job, silent):
    lease_seconds = heartbeat.options.lease_for.total_seconds()
    heartbeat.beat(server)  # the first one registers the worker
    heartbeat.beat(server)
    assert fresh(job).state == State.READY
    Job.objects.filter(pk=job.pk).update(state=State.RUNNING, worker_id=silent.id, lease_expires_at=ago(HOUR))
    heartbeat.rescue._contact_at -= lease_seconds
    heartbeat.beat(server)
    assert fresh(job).state == State.RUNNING
    heartbeat.rescue._settled_at -= lease_seconds
    heartbeat.beat(server)
    assert fresh(job).state == State.READY
