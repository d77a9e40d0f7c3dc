"""What real worker processes send of their runs, and what is lost with them."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job
from tests.jobs import add, hold_on
from tests.process import supervised
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
TRACED = {"DJANGO_SETTINGS_MODULE": "tests.process.traced_settings"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans(worker):
    """Process, name, outcome and trace of each span that was sent."""
    lines = [line for line in worker.output.splitlines() if line.startswith("SPAN ")]
    return [(int(pid), rest.rsplit(" ", 2)) for pid, rest in (line[5:].split(" ", 1) for line in lines)]


def test_a_worker_sends_the_spans_that_wait_when_it_stops(workers):
    add.using(metadata={"traceparent": PARENT}).enqueue(1)
    worker = workers.start("--burst", **TRACED)
    assert worker.wait() == 0
    assert [span for _, span in spans(worker)] == [["run tests.jobs.add", "succeeded", PARENT.split("-")[1]]]


def test_forked_processes_send_the_spans_of_their_own_runs(workers):
    supervisor = supervised.start(workers, 2, **TRACED)
    results = [add.enqueue(number) for number in range(20)]
    for result in results:
        result.wait(30)
    supervisor.send(15)
    assert supervisor.wait() == 0
    sent = [(pid, name) for pid, (name, *_) in spans(supervisor)]
    assert len(sent) == 20
    assert supervisor.process.pid not in {pid for pid, _ in sent}


def test_of_a_killed_run_its_start_alone_is_sent_and_the_next_run_is_in_its_trace(workers, marks):
    result = hold_on.using(metadata={"traceparent": PARENT}).enqueue("a", seconds=60)
    victim = workers.start(TRACE_STARTS="1", **TRACED)
    wait_for(lambda: "a:started" in marks() and spans(victim))
    victim.kill()
    assert [span for _, span in spans(victim)] == [["start tests.jobs.hold_on", "None", PARENT.split("-")[1]]]
    Job.objects.filter(pk=result.id).update(kwargs={"seconds": 0})
    worker = workers.start(**TRACED)
    result.wait(40)
    worker.send(15)
    assert worker.wait() == 0
    assert [span for _, span in spans(worker)][-1] == [
        "run tests.jobs.hold_on", "succeeded", PARENT.split("-")[1],
    ]  # fmt: skip
