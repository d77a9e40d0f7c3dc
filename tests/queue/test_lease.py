from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from pgonly_django.models.job import State
from pgonly_django.queue.lease import Renewal, cancel_requested, claimed_by, renew
from tests.queue.rows import HOUR, LEASE, ago, fresh, make, make_running

SOON = timedelta(seconds=5)


def held(*jobs) -> dict[str, int]:
    return {str(job.id): job.lease_epoch for job in jobs}


def test_renewing_moves_the_end_of_the_lease_on(server):
    job = make_running(lease_expires_at=ago(-SOON))
    assert renew(server, held(job), LEASE) == {str(job.id): Renewal(cancel_requested=False, renewed=True)}
    assert fresh(job).lease_expires_at > job.lease_expires_at + LEASE - 2 * SOON


def test_an_expired_lease_that_nobody_took_is_renewed(server):
    job = make_running(lease_expires_at=ago(HOUR))
    assert renew(server, held(job), LEASE)[str(job.id)].renewed


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
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
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


def test_nothing_held_takes_no_statement():
    assert renew(None, {}, LEASE) == {}


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
