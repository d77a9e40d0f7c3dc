from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from pgonly_django.models import Worker
from pgonly_django.models.job import State
from pgonly_django.queue.liveness import (
    Beat,
    Renewal,
    cancel_requested,
    claimed_by,
    fall_asleep,
    forget,
    heartbeat,
    renew,
)
from tests.queue.rows import HOUR, LEASE, ago, fresh, make, make_running, make_worker, while_locked

SOON = timedelta(seconds=5)


def held(*jobs) -> dict[str, int]:
    return {str(job.id): job.lease_epoch for job in jobs}


def test_renewing_moves_the_end_of_the_lease_on(server):
    job = make_running(lease_expires_at=ago(-SOON))
    assert renew(server, held(job), LEASE) == {str(job.id): Renewal(cancel_requested=False, renewed=True)}
    assert fresh(job).lease_expires_at > job.lease_expires_at + LEASE - 2 * SOON


def test_an_expired_lease_that_nobody_took_is_renewed(server):
    """Of a worker that was cut off for longer than a lease."""
    job = make_running(lease_expires_at=ago(HOUR))
    assert renew(server, held(job), LEASE)[str(job.id)].renewed
    assert fresh(job).lease_expires_at > ago(timedelta(0))


def test_nothing_held_takes_no_statement():
    assert renew(None, {}, LEASE) == {}


def test_a_job_that_somebody_else_took_is_missing_from_the_answer(server):
    mine, taken, over = make_running(), make_running(lease_epoch=3), make_running(state=State.SUCCEEDED)
    before = fresh(taken).lease_expires_at
    answer = renew(server, {**held(mine, over), str(taken.id): 2}, LEASE)
    assert set(answer) == {str(mine.id)}
    assert fresh(taken).lease_expires_at == before


def test_a_wish_to_cancel_comes_with_the_renewal(server):
    job = make_running(cancel_requested_at=ago(SOON))
    assert renew(server, held(job), LEASE)[str(job.id)].cancel_requested


def test_a_locked_row_is_held_but_not_renewed_and_holds_up_nothing(server, other):
    locked, free = make_running(), make_running()
    with while_locked(locked, other, server):
        answer = renew(server, held(locked, free), LEASE)
    assert {job_id: renewal.renewed for job_id, renewal in answer.items()} == {
        str(locked.id): False,
        str(free.id): True,
    }
    assert fresh(locked).lease_expires_at == locked.lease_expires_at


def test_a_row_that_a_checkpoint_in_an_open_transaction_refers_to_is_renewed(server, other):
    job = make_running()
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
        assert renew(server, held(job), LEASE)[str(job.id)].renewed


def test_a_worker_finds_all_rows_in_its_name(server):
    worker = uuid4()
    mine = make_running(worker)
    make_running(), make(worker_id=worker), make_running(worker, state=State.SUCCEEDED)
    assert claimed_by(server, worker) == held(mine)


def test_the_wish_to_cancel_is_asked_for_running_jobs_only(server):
    wanted = make_running(cancel_requested_at=ago(SOON))
    over = make_running(state=State.SUCCEEDED, cancel_requested_at=ago(SOON))
    other_job = make_running()
    asked = [str(job.id) for job in (wanted, over, other_job)]
    assert cancel_requested(server, asked) == [str(wanted.id)]


def test_the_row_of_a_job_that_stands_still_is_reported_as_held_and_not_written(server):
    still, moving = make_running(), make_running()
    answer = renew(server, held(still, moving), LEASE, {str(still.id)})
    assert answer == {str(still.id): Renewal(False, False), str(moving.id): Renewal(False, True)}
    assert fresh(still).lease_expires_at == still.lease_expires_at


def test_a_heartbeat_is_written_down_with_the_number_of_jobs(server):
    worker = make_worker(silent_for=HOUR)
    heartbeat(server, worker.id, 7)
    worker.refresh_from_db()
    assert worker.running == 7
    assert worker.heartbeat_at > ago(timedelta(minutes=1))


@pytest.mark.parametrize(("expired", "answer"), [(True, True), (False, False)])
def test_a_heartbeat_says_whether_some_lease_has_run_out(server, expired, answer):
    make_running(lease_expires_at=ago(HOUR if expired else -HOUR))
    assert heartbeat(server, make_worker().id, 0) == Beat(
        True, answer, some_running=True, some_batch_open=False, request=None
    )


def test_a_heartbeat_does_not_wait_for_its_own_locked_row(server, other):
    worker = make_worker(silent_for=HOUR)
    with while_locked(worker, other, server):
        assert heartbeat(server, worker.id, 0) == Beat(
            False, False, some_running=False, some_batch_open=False, request=None
        )
    assert heartbeat(server, worker.id, 0).was_written


def test_a_worker_whose_row_is_gone_learns_it(server):
    assert heartbeat(server, uuid4(), 0) is None
    assert not Worker.objects.exists()


def test_the_rows_of_long_gone_workers_are_deleted(server):
    make_worker(silent_for=HOUR)
    alive = make_worker()
    forget(server, timedelta(minutes=30))
    assert list(Worker.objects.all()) == [alive]


def test_of_one_name_only_stopped_workers_are_forgotten_by_their_last_heartbeat(server):
    silent = make_worker(silent_for=HOUR, name="tick")
    marked = make_worker(silent_for=HOUR, name="tick", stopped_at=ago(timedelta(0)))
    make_worker(name="tick", stopped_at=ago(timedelta(0)))
    make_worker(silent_for=HOUR, name="other", stopped_at=ago(HOUR))
    assert forget(server, timedelta(minutes=10), stopped_named="tick") == 1
    assert Worker.objects.filter(pk=silent.pk).exists()
    assert not Worker.objects.filter(pk=marked.pk).exists()


def test_a_locked_worker_row_holds_up_no_forgetting(server, other):
    dead, _ = make_worker(silent_for=HOUR), make_worker(silent_for=HOUR)
    with while_locked(dead, other, server):
        forget(server, timedelta(minutes=30))
    assert list(Worker.objects.all()) == [dead]


def test_a_worker_falls_asleep_until_its_next_heartbeat_and_learns_what_is_due(server):
    worker = make_worker(silent_for=HOUR, running=3)
    assert fall_asleep(server, worker.id) == (True, None)
    worker.refresh_from_db()
    assert worker.sleeping_since > ago(timedelta(minutes=1))
    assert (worker.heartbeat_at > ago(timedelta(minutes=1)), worker.running) == (True, 0)
    make(state=State.SCHEDULED, run_at=ago(-HOUR))
    make(state=State.SCHEDULED, run_at=ago(-2 * HOUR))
    is_asleep, due_in = fall_asleep(server, worker.id)
    assert (is_asleep, due_in) == (True, pytest.approx(3600, abs=60))
    heartbeat(server, worker.id, 0)
    worker.refresh_from_db()
    assert worker.sleeping_since is None


def test_no_worker_falls_asleep_while_a_job_runs_or_its_row_is_gone(server):
    worker = make_worker()
    assert not fall_asleep(server, uuid4()).is_asleep
    make_running()
    assert not fall_asleep(server, worker.id).is_asleep
    worker.refresh_from_db()
    assert worker.sleeping_since is None
