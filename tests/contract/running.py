"""Runs one of Django's own test suites on this package, in a process with its own settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_suite(name: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run tests/contract/NAME_suite.py under NAME_settings.py. Returns the number of tests and the reasons of skips."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "django",
            "test",
            f"tests.contract.{name}_suite",
            "-v2",
            "--noinput",
            *arguments,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": f"tests.contract.{name}_settings",
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran is not None, done.stderr[-6000:]
    return int(ran.group(1)), re.findall(r"skipped '(.*)'", done.stderr)
