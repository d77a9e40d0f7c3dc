from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[2]
# Each with the tests of Django's that it stands before, in tests/contract/task_suite.py.
REASONS = {
    "this backend can do what it says cannot be done",
    "a job is part of its transaction, so it cannot run before the commit: promise 1",
}

if django.VERSION >= (6, 0):  # Django 5.2 has no tasks, and the source distribution of its backport no tests

    def test_djangos_own_task_tests_pass_but_for_those_that_ask_for_another_backend():
        command = [sys.executable, "-m", "django", "test", "tests.contract.task_suite", "--verbosity", "2"]
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.contract.task_settings"}
        # Some of Django's coroutines look at a result without `await`.
        environment |= {"PYTHONPATH": str(ROOT), "DJANGO_ALLOW_ASYNC_UNSAFE": "1"}
        done = subprocess.run(
            [*command, "--noinput"],
            cwd=ROOT,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        skips = re.findall(r"skipped '(.*)'", done.stderr)
        assert int(re.search(r"Ran (\d+) tests", done.stderr).group(1)) > 100
        assert len(skips) == 4
        assert set(skips) == REASONS
