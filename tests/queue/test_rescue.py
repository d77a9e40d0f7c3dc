from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from django.db import transaction

from pgonly_django.amounts import Cost
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, Worker
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import CRASHES_ALLOWED, ERRORS_KEPT
from pgonly_django.queue import checkpoints
from pgonly_django.queue.rescue import ADVISORY_LOCK, end_transactions, rescue
from tests.queue.rows import HOUR, LEASE, ago, fresh, make_running, make_worker, while_locked

NONE, YEARS = timedelta(0), timedelta(days=3650)
PAID = checkpoints.StepCost(Cost(1))


def orphan(worker: Worker, **facts):
    return make_running(worker.id, **{"lease_expires_at": ago(HOUR), **facts})


@pytest.fixture
def dead(transactional_db) -> Worker:
    return make_worker(silent_for=HOUR, name="the dead one")


def states(*jobs) -> list[tuple[str, int]]:
    return [(fresh(job).state, fresh(job).crashes) for job in jobs]


def test_a_job_of_a_dead_worker_is_ready_again_at_no_cost_and_says_why(server, dead):
    job = orphan(dead, attempt=2, ready_at=ago(HOUR))
    (rescued,) = rescue(server, LEASE, NONE)
    row = fresh(job)
    assert (row.state, row.attempt, row.crashes, row.lease_epoch) == (State.READY, 1, 1, job.lease_epoch)
    assert row.ready_at == job.ready_at, "it keeps its place"
    assert row.waiting_since > ago(timedelta(minutes=1))
    assert (rescued.state, rescued.crashes, rescued.worker) == ("ready", 1, "the dead one")
    (error,) = row.errors
    assert (error["outcome"], error["worker"], error["attempt"]) == ("crashed", "the dead one", 2)
    assert "1 of 3" in error["reason"]


def test_a_run_whose_end_nobody_saw_ends_when_its_worker_was_last_heard_of(server, dead):
    began = ago(2 * HOUR)
    job = orphan(dead, attempted_at=began)
    rescue(server, LEASE, NONE)
    (error,) = fresh(job).errors
    assert datetime.fromisoformat(error["finished_at"]) == dead.heartbeat_at
    assert fresh(job).run_seconds == (dead.heartbeat_at - began).total_seconds()


def test_a_run_without_an_own_late_lease_ends_there_too_and_not_at_the_rescue(server, dead):
    began = ago(2 * HOUR)
    orphan(dead)
    late = orphan(dead, attempted_at=began, lease_expires_at=ago(-timedelta(seconds=1)))
    rescue(server, LEASE, NONE)
    ended = datetime.fromisoformat(fresh(late).errors[-1]["finished_at"])
    # Its lease was renewed so long before it ends.
    assert abs(ended - (late.lease_expires_at - LEASE)) < timedelta(milliseconds=1)


def test_a_run_of_a_worker_without_a_row_ends_when_its_lease_was_renewed(server):
    job = orphan(Worker(id=uuid4()), attempted_at=ago(3 * HOUR), lease_expires_at=ago(HOUR))
    rescue(server, LEASE, NONE)
    ended = datetime.fromisoformat(fresh(job).errors[-1]["finished_at"])
    assert abs(ended - (job.lease_expires_at - LEASE)) < timedelta(milliseconds=1)


def test_a_run_that_began_after_the_last_heartbeat_does_not_end_before_it_began(server, dead):
    job = orphan(dead, attempted_at=ago(HOUR / 2))
    rescue(server, LEASE, NONE)
    assert fresh(job).run_seconds == 0


def test_jobs_of_a_living_worker_stay_whatever_their_lease_says(server):
    job = orphan(make_worker())
    assert rescue(server, LEASE, NONE) == []
    assert fresh(job).state == State.RUNNING


def test_a_silent_worker_is_not_dead_while_all_its_leases_last(server, dead):
    job = orphan(dead, lease_expires_at=ago(-HOUR))
    assert rescue(server, LEASE, NONE) == []
    assert fresh(job).state == State.RUNNING


def test_all_jobs_of_a_dead_worker_are_judged_together(server, dead):
    jobs = orphan(dead), orphan(dead, lease_expires_at=ago(-HOUR))
    assert len(rescue(server, LEASE, NONE)) == 2
    assert states(*jobs) == [(State.READY, 1), (State.READY, 1)]


@pytest.mark.parametrize("facts", [None, {"stopped_at": "now"}])
def test_a_worker_without_a_row_or_that_has_stopped_is_dead(server, facts):
    worker = make_worker(stopped_at=ago(NONE)) if facts else Worker(id=uuid4())
    job = orphan(worker)
    rescue(server, LEASE, NONE)
    assert fresh(job).state == State.READY


def test_nobody_is_called_dead_soon_after_the_server_started(server, dead):
    job = orphan(dead)
    assert rescue(server, LEASE, YEARS) == []
    assert fresh(job).state == State.RUNNING


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0, 0), (1, 1)),
        ((1, 0), (2, 1)),
        ((1, 1, 0), (2, 2, 1)),
        ((2, 1, 0), (2, 2, 0)),
        ((2, 0, 0), (3, 0, 0)),
    ],
)
def test_who_is_blamed_for_the_death_of_a_worker(server, dead, before, after):
    jobs = [orphan(dead, crashes=crashes) for crashes in before]
    rescue(server, LEASE, NONE)
    assert tuple(fresh(job).crashes for job in jobs) == after


def test_a_neighbour_of_the_one_suspect_reads_that_it_is_not_blamed(server, dead):
    _, neighbour = orphan(dead, crashes=2), orphan(dead)
    rescue(server, LEASE, NONE)
    assert "another job is suspected" in fresh(neighbour).errors[-1]["reason"]


def test_a_suspect_of_one_worker_does_not_clear_the_jobs_of_another(server, dead):
    suspect, elsewhere = orphan(dead, crashes=2), orphan(make_worker(silent_for=HOUR))
    rescue(server, LEASE, NONE)
    assert states(suspect, elsewhere) == [(State.FAILED, 3), (State.READY, 1)]


def test_the_third_crash_ends_the_job_and_says_so(server, dead):
    job = orphan(dead, crashes=CRASHES_ALLOWED - 1, retention=HOUR)
    (rescued,) = rescue(server, LEASE, NONE)
    row = fresh(job)
    assert (row.state, row.crashes, rescued.state) == (State.FAILED, CRASHES_ALLOWED, "failed")
    assert "died 3 times" in row.errors[-1]["reason"]
    assert row.delete_after - row.finished_at >= HOUR - timedelta(milliseconds=1)


def dies(server, job):
    """The worker that runs the job dies. Returns how the row stands then."""
    rescue(server, LEASE, NONE)
    row = fresh(job)
    if row.state == State.READY:
        worker = make_worker(silent_for=HOUR)
        facts = {"state": State.RUNNING, "worker_id": worker.id, "lease_expires_at": ago(HOUR)}
        Job.objects.filter(pk=job.pk).update(**facts)
    return row.state, row.crashes


def save(job, value=None, positions="{}", step=None):
    """As a run of the job does, at whose death the row has not heard of it."""
    if step is None:
        checkpoints.save_checkpoint("default", str(job.id), job.lease_epoch, f'"{value}"', positions)
    else:
        checkpoints.save_step("default", str(job.id), job.lease_epoch, step, "1")


@pytest.mark.parametrize(
    "facts",
    [
        lambda n: {"step": f"call {n}"},
        lambda n: {"value": f"page {n}"},
        lambda n: {"positions": f'{{"items": {n}}}'},
    ],
    ids=["step", "checkpoint", "position"],
)
def test_a_job_that_saves_something_new_before_each_death_goes_on(server, dead, facts):
    job = orphan(dead)
    for n in range(2 * CRASHES_ALLOWED):
        save(job, **facts(n))
        assert dies(server, job) == (State.READY, 1)


@pytest.mark.parametrize("saved", [["loading"], ["loading", "computing"]])
def test_a_job_that_saves_the_same_in_each_life_fails_at_the_third_death(server, dead, saved):
    job, ends = orphan(dead), []
    for _ in range(CRASHES_ALLOWED):
        for value in saved:
            save(job, value)
        save(job, step="the only one")
        ends.append(dies(server, job))
    assert ends == [(State.READY, 1), (State.READY, 2), (State.FAILED, 3)]


def test_where_no_death_has_noted_what_was_saved_nothing_counts_as_new(server, dead):
    """Later errors may have pushed the note out."""
    job = orphan(dead, crashes=2, errors=[{"outcome": "crashed"}])
    save(job, step="made before")
    assert dies(server, job) == (State.FAILED, 3)


def test_a_suspect_that_has_saved_something_new_does_not_clear_its_neighbours(server, dead):
    progressing, neighbour = orphan(dead), orphan(dead)
    for _ in range(2):
        save(progressing, step=f"call {uuid4()}")
        rescue(server, LEASE, NONE)
        Job.objects.update(
            state=State.RUNNING, worker_id=make_worker(silent_for=HOUR).id, lease_expires_at=ago(HOUR)
        )
    assert states(progressing, neighbour) == [(State.RUNNING, 1), (State.RUNNING, 2)]


def test_a_job_that_was_to_be_cancelled_is_cancelled_instead_of_rescued(server, dead):
    job = orphan(dead, cancel_requested_at=ago(HOUR), retention=HOUR)
    (rescued,) = rescue(server, LEASE, NONE)
    row = fresh(job)
    assert (row.state, rescued.state) == (State.CANCELLED, "cancelled")
    assert row.finished_at < row.delete_after


def test_a_rescue_keeps_the_last_ten_errors(server, dead):
    job = orphan(dead, errors=[{"n": n} for n in range(ERRORS_KEPT)])
    rescue(server, LEASE, NONE)
    errors = fresh(job).errors
    assert (len(errors), errors[0]["n"], errors[-1]["outcome"]) == (ERRORS_KEPT, 1, "crashed")


def test_a_locked_job_is_left_for_the_next_rescue(server, other, dead):
    locked, free = orphan(dead), orphan(dead)
    with while_locked(locked, other, server):
        assert len(rescue(server, LEASE, NONE)) == 1
    assert states(free, locked) == [(State.READY, 1), (State.RUNNING, 0)]
    assert len(rescue(server, LEASE, NONE)) == 1


def test_one_rescuer_at_a_time(server, other, dead):
    orphan(dead)
    with other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
        assert rescue(server, LEASE, NONE) == []
    assert len(rescue(server, LEASE, NONE)) == 1


def test_a_worker_whose_own_row_is_locked_lives_as_long_as_a_lease_of_its(server, other, dead):
    """It cannot say that it lives; the leases that it renews say it."""
    late, renewed = orphan(dead), orphan(dead, lease_expires_at=ago(-HOUR))
    with while_locked(dead, other):
        assert rescue(server, LEASE, NONE) == []
        Job.objects.filter(pk=renewed.pk).update(lease_expires_at=ago(HOUR))
        assert len(rescue(server, LEASE, NONE)) == 2
    assert states(late, renewed) == [(State.READY, 1), (State.READY, 1)]


def test_what_a_stopped_worker_could_not_give_back_is_no_crash(server):
    """Its row was locked at the end of the grace: a planned stop costs nothing, however late."""
    job = orphan(make_worker(stopped_at=ago(HOUR)), crashes=CRASHES_ALLOWED - 1, attempt=2)
    rescue(server, LEASE, NONE)
    row = fresh(job)
    assert states(job) == [(State.READY, CRASHES_ALLOWED - 1)]
    assert (row.attempt, row.interruptions, row.errors[-1]["outcome"]) == (1, 1, "released")


@pytest.fixture
def frozen(dead):
    """A connection of the dead worker's, as runworker names them."""
    with connect("default", application_name=f"pgonly jobs {dead.id}") as connection:
        yield connection


def test_what_a_dead_worker_has_open_is_ended_so_that_its_jobs_can_be_rescued(server, frozen, dead):
    job = orphan(dead)
    frozen.execute("BEGIN")
    frozen.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
    assert rescue(server, LEASE, NONE) == []
    assert end_transactions(server, LEASE, NONE) == [(dead.id, frozen.info.backend_pid)]
    assert len(rescue(server, LEASE, NONE)) == 1
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("COMMIT")


def test_what_a_dead_worker_has_open_elsewhere_is_ended_too(server, frozen, dead):
    """The next run of its job may need the rows that it has locked."""
    orphan(dead)
    frozen.execute("BEGIN")
    frozen.execute("SELECT pg_current_xact_id()")
    assert end_transactions(server, LEASE, NONE) == [(dead.id, frozen.info.backend_pid)]
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("COMMIT")


def test_nothing_is_ended_of_workers_that_live_of_other_people_or_of_who_only_reads(
    server, frozen, other, dead
):
    living = make_worker()
    waiting = orphan(living)
    other.execute("SELECT set_config('application_name', %s, false)", [f"pgonly jobs {living.id}"])
    other.execute("BEGIN")
    other.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [waiting.id])
    assert end_transactions(server, LEASE, NONE) == []
    frozen.execute("BEGIN")
    frozen.execute("SELECT FROM pgonly_job")
    locked = orphan(dead)
    with connect("default", application_name="a person's") as person, person.transaction():
        person.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
        assert end_transactions(server, LEASE, NONE) == []
    other.execute("ROLLBACK")
    frozen.execute("ROLLBACK")


@pytest.mark.parametrize(
    "save",
    [
        lambda job: checkpoints.save_checkpoint("default", str(job.id), job.lease_epoch, "1", "{}"),
        lambda job: checkpoints.save_step("default", str(job.id), job.lease_epoch, "ask", "1"),
        lambda job: checkpoints.save_step("default", str(job.id), job.lease_epoch, "ask", "1", PAID),
    ],
    ids=["checkpoint", "step", "paid step"],
)
def test_a_job_that_has_saved_in_a_transaction_which_is_still_open_stays_with_it(server, dead, save):
    """Its rows would commit beside those of the run elsewhere."""
    job = orphan(dead)
    with transaction.atomic():
        save(job)
        assert rescue(server, LEASE, NONE) == []
    assert len(rescue(server, LEASE, NONE)) == 1
