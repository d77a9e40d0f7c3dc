"""manage.py pgonly_jobs in a process: its exit codes, and what reads its output."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import UUID

import pytest

from tests import zygote
from tests.children import environment
from tests.management.calling import ERROR, failed
from tests.management.test_pgonly_jobs import many

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


SETTINGS = "tests.management.without_admin"


def run(*arguments, **variables):
    """Its standard input is empty."""
    return zygote.run(["-m", "django", "pgonly_jobs", *arguments], env=environment(SETTINGS, **variables))


def test_it_works_without_the_admin_and_without_tasks_and_ends_with_its_exit_codes():
    job = failed()
    done = run("list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["id"] == str(job.pk)
    assert run("retry", str(job.pk)).stdout == "1 job was retried.\n"
    assert run("retry", str(UUID(int=7))).returncode == 1
    assert run("retry").returncode == 2
    assert run("list", "--state", "x").returncode == 2
    many()
    refused = run("cancel", "--queue", "ai")
    assert (refused.returncode, refused.stdout) == (3, "")


def test_a_reader_that_goes_away_is_no_error():
    for _ in range(300):
        failed()
    command = f"{sys.executable} -m django pgonly_jobs list --limit 0 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment(SETTINGS),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("id ")


def test_a_terminal_of_ascii_shows_other_letters_escaped():
    failed(errors=[{**ERROR, "message": "größer ☃"}])
    command = [sys.executable, "-m", "django", "pgonly_jobs", "list"]
    options = {"env": environment(SETTINGS, PYTHONIOENCODING="ascii", PYTHONUTF8="0")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert (done.returncode, "gr\\xf6\\xdfer \\u2603" in done.stdout) == (0, True), done.stderr
