"""The commands that need no database: a build machine, an image that is being made."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.process.conftest import ROOT

pytestmark = pytest.mark.process
NOBODY_LISTENS = "postgres://nobody@127.0.0.1:9/nowhere"


@pytest.mark.parametrize("command", [["check"], ["makemigrations", "--check", "--dry-run"]])
def test_checks_and_migrations_need_no_server(command):
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": NOBODY_LISTENS}
    command = [sys.executable, "manage.py", *command]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
