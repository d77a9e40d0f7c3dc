"""Each file runs under its own settings: here, where these are the settings of this process, else in a pytest of its
own. `.ci/neighbours` has an environment with all packages; what is not installed is skipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests.neighbours.redis_server import redis_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROJECTS = "tests.neighbours.projects"


def project_of(file: Path) -> str:
    """The settings of `file`, a module's name."""
    package = file.stem.removeprefix("test_")
    return f"{PROJECTS}.{package if (HERE / 'projects' / f'{package}.py').exists() else 'together'}"


def pytest_pycollect_makemodule(module_path, parent):
    if module_path.parent == HERE and project_of(module_path) != settings.SETTINGS_MODULE:
        return Elsewhere.from_parent(parent, path=module_path)
    return None


def missing_for(file: Path) -> list[str]:
    """What is not installed here: of all packages, where `file` shares its settings with others."""
    names = re.findall(r"^[\w-]+", (HERE / "requirements.txt").read_text(), re.MULTILINE)
    if not project_of(file).endswith(".together"):
        package = file.stem.removeprefix("test_")
        return [] if importlib.util.find_spec(package) else [package]
    installed = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower() for each in importlib.metadata.distributions()
    }
    return [name for name in names if name not in installed]


class Elsewhere(pytest.File):
    def collect(self):
        yield UnderItsSettings.from_parent(self, name="under its settings")


class UnderItsSettings(pytest.Item):
    def setup(self):
        if missing := missing_for(self.path):
            pytest.skip(f"not installed: {missing[0]}. See .ci/neighbours.")

    def runtest(self):
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-W", "default", str(self.path)]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            [*command, f"--ds={project_of(self.path)}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)

    def reportinfo(self):
        return self.path, None, self.path.name


@pytest.fixture
def work(transactional_db):
    """Run a real worker in this process until no job is ready."""

    def run(**options):
        worker = WorkerLoop(WorkerOptions(**{"burst": True, "threads": 2, "grace_seconds": 1.0, **options}))
        worker.run()

    yield run
    connections.close_all()


@pytest.fixture(scope="session")
def redis_url():
    with redis_server() as url:
        yield url
