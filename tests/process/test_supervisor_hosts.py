"""Where a supervisor runs: as process 1, under --reload, beside a database that goes away."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import jobs
from tests.children import ROOT
from tests.jobs import growing
from tests.process.supervised import children, touching
from tests.waiting import wait_for

pytestmark = [pytest.mark.process(starts_afresh=True), pytest.mark.slow]


def namespace():
    """What starts a command as process 1 of its own namespace. Skips the test where that is refused."""
    for flags in (
        ["--pid", "--fork", "--mount-proc"],
        ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
    ):
        if (
            shutil.which("unshare")
            and not subprocess.run(["unshare", *flags, "true"], check=False, capture_output=True).returncode
        ):
            return " ".join(["unshare", *flags])
    return pytest.skip("unshare is refused here")


def offspring(pid):
    """Of a process: (pid, name, state) of each child, also of those that are dead and that it has not waited for."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            facts = dict(re.findall(r"^(\w+):\t(.*)$", status.read_text(), re.MULTILINE))
            if int(facts["PPid"]) == pid:
                found.append((int(facts["Pid"]), facts["Name"], facts["State"][0]))
    return found


def test_as_process_1_it_waits_for_what_is_left_to_it_and_obeys_signals(workers):
    supervisor = workers.start("--processes", "2", ready=False, shell=f'exec {namespace()} "$@"')
    wait_for(lambda: len(children(supervisor)) == 2 or supervisor.process.poll() is not None)
    ((init, _, _),) = offspring(supervisor.process.pid)
    growing.leave_an_orphan.enqueue()
    wait_for(lambda: any(name == "sleep" for _, name, _ in offspring(init)), what="the orphan")
    wait_for(lambda: not any(name == "sleep" for _, name, _ in offspring(init)), what="its end")
    os.kill(init, signal.SIGTERM)
    assert supervisor.wait(15) == 0
    assert children(supervisor) == {}


def test_a_reload_gives_the_jobs_of_all_children_back_and_starts_afresh(workers, marks):
    flags = ("--processes", "2", "--threads", "1", "--reload")
    supervisor = workers.start(*flags, ready=False, DJANGO_SETTINGS_MODULE="tests.settings")
    results = [jobs.sleep_in_slices.enqueue(f"k{n}") for n in range(2)]
    wait_for(lambda: len([mark for mark in marks() if mark.endswith(":started")]) == 2, 60)
    assert "starts, spawned." in supervisor.output
    tasks = ROOT / "example_project" / "screening" / "tasks.py"  # which the supervisor has no use for
    said = "Stopping 2 process(es): their jobs are released now."
    wait_for(touching(tasks, lambda: said in supervisor.output), 60, "the reload")
    wait_for(
        lambda: len([mark for mark in marks() if mark.endswith(":started")]) == 4, 60, "the second start"
    )
    assert {(each.job.attempt, each.job.interruptions, each.job.crashes) for each in results} == {(1, 1, 0)}


@pytest.mark.server
def test_a_child_that_dies_while_the_database_is_away_has_its_jobs_back_when_it_returns(own_server, workers):
    workers.url = own_server.url()
    supervisor = workers.start("--processes", "2", "--threads", "1", ready=False, lease=60)
    own_server.enqueue_pauses(1, 3.0)
    running = "SELECT worker.pid FROM pgonly_job JOIN pgonly_worker AS worker ON worker.id = worker_id WHERE state = %s"

    def owner():
        rows = own_server.execute(running.replace("%s", "'running'"))
        return rows and rows[0][0]

    pid = wait_for(owner, 60, "the job to run")
    os.kill(pid, signal.SIGSTOP)  # so that of the two only the other one notices
    own_server.server.stop("immediate")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "cannot be taken back, trying again:" in supervisor.output)
    wait_for(lambda: supervisor.output.count(": PostgreSQL is unavailable, trying again until it is back") == 2,
             what="the process in its place to notice")  # fmt: skip
    assert supervisor.process.poll() is None
    own_server.server.start()
    wait_for(lambda: own_server.count("succeeded") == 1, 60, "the job's end")
    assert own_server.execute("SELECT crashes, lease_epoch, attempt FROM pgonly_job") == [(0, 2, 1)]
    assert "broke down" not in supervisor.output
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(20) == 0
