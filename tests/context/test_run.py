"""The interruption of a run from outside, and what the speed of its progress is measured by."""

from __future__ import annotations

import pytest

from pgonly_django.context.run import Counting
from tests import zygote

# In a process of its own: if the interpreter hangs, only a kill helps.
TRACED = """
import sys, threading
import django
django.setup()
from pgonly_django.exceptions import JobStopped
from pgonly_django.context.interrupter import Interrupter

def job():
    interrupter.open_thread()
    is_open.set()
    try:
        while True:
            pass
    except JobStopped:
        pass
    interrupter.close()

interrupter, is_open = Interrupter(), threading.Event()
thread = threading.Thread(target=job)
thread.start()
is_open.wait()
assert interrupter.interrupt(JobStopped)
thread.join()
assert interrupter.has_reached_job

def traced(value):
    return value

sys.settrace(lambda *_: None)
print(traced("went on"))
"""


def test_a_debugger_goes_on_after_a_job_was_interrupted():
    done = zygote.run(["-c", TRACED], timeout=20)
    assert (done.stdout, done.stderr) == ("went on\n", "")


def reports(*reports, is_first_run=True):
    counting = Counting(is_first_run=is_first_run)
    return [counting.since(*report) for report in reports]


def test_a_first_run_counts_from_nought():
    assert reports((0, 10, 0.1), (1, 10, 5.0), (9, 10, 60.0)) == [None, None, None]
    assert reports((5, 10, 5.0)) == [None]


def test_a_later_run_counts_from_its_first_report():
    since = {"done": 700, "seconds": 0.2}
    assert reports((700, 1000, 0.2), (701, 1000, 3.0), is_first_run=False) == [since, since]
    assert reports((0, 10, 0.2), (1, 10, 3.0), is_first_run=False) == [None, None]


def test_a_second_loop_is_measured_anew():
    second = {"done": 0, "seconds": 60.0}
    found = reports((0, 10, 0.0), (10, 10, 59.0), (0, 500, 60.0), (7, 500, 70.0))
    assert found == [None, None, second, second]


def test_another_total_is_another_count():
    assert reports((9, 10, 9.0), (20, 500, 70.0))[-1] == {"done": 20, "seconds": 70.0}
    assert reports((9, 10, 9.0), (10, None, 70.0), (11, 10, 80.0)) == [None, None, None]


@pytest.mark.parametrize(
    "report", [("5", 10, 1.0), (None, 10, 1.0), (True, 10, 1.0), (5, "10", 1.0), ([], {}, 1.0)]
)
def test_what_is_no_number_is_not_measured(report):
    assert reports((1, 10, 0.5), report, (2, 10, 2.0)) == [None, None, None]
