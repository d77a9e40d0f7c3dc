"""Raising an exception in a job's thread from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In a separate process: if the interpreter hangs, only a kill helps.
TRACED = """
import sys, threading
import django
django.setup()
from pgonly_django.exceptions import JobStopped
from pgonly_django.context.run import Interrupter

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
    done = subprocess.run(
        [sys.executable, "-c", TRACED],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "went on\n"
