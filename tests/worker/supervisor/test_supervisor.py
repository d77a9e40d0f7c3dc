"""The supervisor's decisions, with processes that do what the test says."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace

import pytest

from pgonly_django.worker.status import ExitCode, WorkerState
from pgonly_django.worker.supervisor import processes as process_module
from pgonly_django.worker.supervisor import supervisor as module
from tests.queue.rows import fresh, make_running, make_worker
from tests.waiting import wait_for
from tests.worker.supervisor.conftest import deaf, never_ready, obey, run_until_over, tell, turn_until


def are_ready(supervisor):
    return lambda: [each.was_ready for each in supervisor.processes] == [True] * len(supervisor.places)


def pids(supervisor):
    return {process.pid for process in supervisor.processes}


def test_a_process_that_ends_is_replaced_and_a_stop_ends_all(supervise, caplog):
    supervisor = supervise(obey, 3)
    turn_until(supervisor, are_ready(supervisor))
    first = pids(supervisor)
    victim = supervisor.processes[1]
    victim.started_at -= 60
    victim.send(signal.SIGTERM)  # a person's
    turn_until(supervisor, lambda: pids(supervisor) != first and are_ready(supervisor)())
    assert len(pids(supervisor) & first) == 2
    supervisor.stop()
    run_until_over(supervisor)
    assert f"s-2 (pid {victim.pid}) ended with code 0." in caplog.text
    assert "Stopping 3 process(es): their jobs are released now." in caplog.text


def test_processes_that_end_at_their_start_are_started_more_and_more_seldom(supervise, caplog):
    supervisor = supervise(never_ready, 2)
    place = supervisor.places[0]
    for number in range(1, 9):
        turn_until(supervisor, lambda number=number: place.failures == number)
        place.start_at = 0.0
    times = "time(s) in a row it ended soon after its start."
    told = re.findall(f"s-1 starts again in (.*) s: (.*) {re.escape(times)}", caplog.text)
    assert told == [*zip(["1", "2", "4", "8", "16", "32", "60", "60"], "12345678", strict=True)]
    supervisor.stop()
    run_until_over(supervisor)


def test_a_process_that_has_lasted_ends_the_backoff(supervise):
    supervisor = supervise(obey, 1)
    turn_until(supervisor, are_ready(supervisor))
    (place,), (first,) = supervisor.places, supervisor.processes
    place.failures = 5
    first.started_at -= process_module.LASTING_SECONDS
    first.send(signal.SIGKILL)
    turn_until(supervisor, lambda: supervisor.processes not in ([], [first]))
    assert place.failures == 0


def test_a_burst_is_over_when_no_process_finds_a_job(supervise):
    supervisor = supervise(tell, 2, burst=True)
    run_until_over(supervisor)
    assert supervisor.code is ExitCode.STOPPED


def test_a_burst_gives_up_a_place_in_which_no_process_starts(supervise, monkeypatch):
    monkeypatch.setattr(process_module, "LONGEST_BACKOFF_SECONDS", 0.01)
    supervisor = supervise(never_ready, 2, burst=True)
    run_until_over(supervisor)
    assert supervisor.code is ExitCode.BROKEN


def test_a_process_that_tells_nothing_is_killed_but_not_for_a_pause_of_the_supervisor_itself(
    supervise, monkeypatch, caplog, settings
):
    monkeypatch.setattr(module, "SILENCE_LEAST_SECONDS", 1.0)
    settings.PGONLY = {"LEASE_SECONDS": 2}
    supervisor = supervise(deaf, 1)
    turn_until(supervisor, are_ready(supervisor))
    (process,) = supervisor.processes
    supervisor._turned_at -= 3600  # the machine has slept
    supervisor._turn()
    assert process.silent_seconds <= module.COUNTED_SECONDS + 1
    turn_until(supervisor, lambda: process not in supervisor.processes, what="its end")
    assert f"{process} is killed: it has reported nothing for" in caplog.text


def test_a_process_that_does_not_end_within_its_grace_is_killed_and_its_jobs_are_not_blamed(
    supervise, monkeypatch, caplog
):
    monkeypatch.setattr(module, "KILL_AFTER_GRACE_SECONDS", 0.2)
    row = make_worker()
    job = make_running(row.id)

    supervisor = supervise(deaf, 1)
    turn_until(supervisor, are_ready(supervisor))
    (process,) = supervisor.processes
    process.status = replace(process.status, worker_id=str(row.id))
    supervisor.stop()
    run_until_over(supervisor)
    assert f"{process} died of SIGKILL, killed since it did not end within its grace period." in caplog.text
    assert (fresh(job).state, fresh(job).crashes, fresh(job).interruptions) == ("ready", 0, 1)


@pytest.mark.slow
def test_at_the_end_of_max_seconds_all_has_ended_also_what_does_not_end_by_itself(supervise, monkeypatch):
    supervisor = supervise(deaf, 2, ends_at=time.monotonic() + 3.0, max_seconds=3.0)
    turn_until(supervisor, are_ready(supervisor))
    monkeypatch.setattr(module, "TURN_SECONDS", 30.0)
    run_until_over(supervisor)
    assert time.monotonic() < supervisor._deadline.ends_at + 1.0  # on a busy machine
    assert supervisor.code is ExitCode.STOPPED


def until_told(child, what):
    """Waits until the test sends this: `process.channel.send({"payload": what})`."""
    wait_for(lambda: {"payload": what} in child.channel.receive(), 60)


def retiring(child):
    """Retires with its first job, whatever the supervisor says: it ends when the test lets the job end."""
    tell(child, running=1)
    tell(child, running=1, message={"retire": "enough"})
    until_told(child, "end")
    tell(child, jobs_done=1, message={"holds_nothing": True})
    raise SystemExit(3)


def test_one_process_at_a_time_leaves_its_place_and_there_is_never_more_than_one_too_many(supervise):
    supervisor = supervise(retiring, 3)
    left = set()

    def look():
        leaving = [process for process, place in supervisor.place_of.items() if place is None]
        assert len(leaving) <= 1
        assert len(supervisor.processes) <= 4
        left.update(leaving)
        if leaving and len(supervisor.processes) == 4:
            leaving[0].channel.send({"payload": "end"})
        return len(left) >= 4

    turn_until(supervisor, look)
    assert not any(place.failures for place in supervisor.places)  # that is no crash


def test_processes_above_their_memory_at_once_are_started_more_and_more_seldom(supervise, caplog):
    def serve(child):
        tell(child, message={"retire": "99 MB taken (--max-memory-mb 1)"})
        obey(child)

    supervisor = supervise(serve, 1)
    turn_until(supervisor, lambda: "s-1 starts again in 1 s: 1 time(s) in a row" in caplog.text)


def test_the_idle_seconds_count_over_all_processes(supervise):
    def serve(child):
        if child.name == "s-1":
            tell(child, running=1)
            until_told(child, "end")
        obey(child)

    supervisor = supervise(serve, 2, max_idle_seconds=0.2)
    turn_until(supervisor, are_ready(supervisor))
    first, second = supervisor.processes
    turn_until(supervisor, lambda: time.monotonic() - second.status.idle_since > 0.4)
    supervisor._turn()
    assert not supervisor._is_ending  # the first one works
    first.channel.send({"payload": "end"})
    began = time.monotonic()
    run_until_over(supervisor)
    assert time.monotonic() - began > 0.2
    assert supervisor.code is ExitCode.STOPPED


def test_a_stop_at_once_is_passed_on_as_sigquit(supervise):
    def serve(child):
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
        obey(child)

    supervisor = supervise(serve, 2, grace_seconds=600.0)
    turn_until(supervisor, are_ready(supervisor))
    supervisor.stop()
    for process in supervisor.processes:
        process.send(signal.SIGSTOP)
    supervisor._turn()
    supervisor.stop_now()
    for process in supervisor.processes:
        process.send(signal.SIGCONT)
    run_until_over(supervisor)


def test_a_job_that_writes_into_the_channel_confuses_nothing(supervise):
    def serve(child):
        os.write(child.channel.fileno(), b'{"status": 7}\n{"status": {"state": "odd"}}\nabc\n{"retire"')
        os.write(child.channel.fileno(), b": null}\n")
        obey(child)

    supervisor = supervise(serve, 1)
    turn_until(supervisor, are_ready(supervisor))
    assert not supervisor.processes[0].retires_for
    supervisor.stop()
    run_until_over(supervisor)


def test_children_that_somebody_else_has_waited_for_are_replaced(supervise, caplog):
    """As where SIGCHLD is ignored: the system keeps no exit codes."""
    supervisor = supervise(obey, 1)
    turn_until(supervisor, are_ready(supervisor))
    (process,) = supervisor.processes
    process.send(signal.SIGKILL)
    os.waitpid(process.pid, 0)
    turn_until(supervisor, lambda: process not in supervisor.processes)
    assert f"{process} ended, the system does not tell how." in caplog.text


def test_a_system_without_a_process_to_spare_is_asked_again_later(supervise, monkeypatch, caplog):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    supervisor = supervise(obey, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        turn_until(supervisor, lambda: supervisor.places[0].failures == 1)
    assert "s-1 cannot be started, trying again in 1 s:" in caplog.text
    supervisor.places[0].start_at = 0.0
    turn_until(supervisor, are_ready(supervisor))


def test_the_health_port_tells_of_all_workers(supervise):
    supervisor = supervise(obey, 2)
    assert (supervisor.seen().starting, supervisor.seen().why_not_ready()) == (2, "Starting.")
    turn_until(supervisor, are_ready(supervisor))
    seen = supervisor.seen()
    assert [each.name for each in seen.workers] == ["s-1", "s-2"]
    assert {each.state for each in seen.workers} == {WorkerState.READY}
    assert set(seen.memory) == pids(supervisor)
    assert (seen.starting, seen.replaced, seen.is_stopping) == (0, 0, False)


def test_a_wake_up_is_passed_on_to_all_processes(supervise):
    def serve(child):
        tell(child)
        while {"payload": "wake"} not in child.channel.receive():
            time.sleep(0.01)
        tell(child, jobs_done=1)
        time.sleep(60)

    supervisor = supervise(serve, 2)
    turn_until(supervisor, are_ready(supervisor))
    supervisor.wake()
    turn_until(supervisor, lambda: [each.jobs_done for each in supervisor.statuses()] == [1, 1])


def test_a_child_has_nothing_of_the_supervisor_s_so_that_the_others_notice_its_end(supervise):
    supervisor = supervise(obey, 1)

    def serve(child):
        inherited = [process.channel.fileno() for process in supervisor.processes]
        inherited += supervisor.health.sockets()
        tell(child, running=sum(number != -1 for number in inherited), jobs_done=len(inherited))
        time.sleep(60)

    turn_until(supervisor, are_ready(supervisor))
    supervisor.serve = serve
    supervisor.places.append(process_module.Place("s-2"))
    turn_until(supervisor, lambda: [each.jobs_done for each in supervisor.statuses()][1:] == [1])
    assert supervisor.statuses()[1].running == 0


def test_a_process_that_has_no_time_for_the_jobs_that_there_are_is_not_replaced(supervise):
    def serve(child):
        tell(child, message={"holds_nothing": True, "is_out_of_time": True})

    supervisor = supervise(serve, 2, ends_at=time.monotonic() + 60.0, max_seconds=60.0)
    run_until_over(supervisor)
    assert supervisor.seen().replaced == 0


def test_a_process_that_ends_near_the_end_of_max_seconds_is_not_replaced(supervise):
    def serve(child):
        tell(child)
        time.sleep(max(supervisor._deadline.stop_at - time.monotonic(), 0))
        tell(child, message={"holds_nothing": True})

    supervisor = supervise(serve, 2, ends_at=time.monotonic() + 1.0, max_seconds=1.0)
    run_until_over(supervisor)
    assert supervisor.seen().replaced == 0
