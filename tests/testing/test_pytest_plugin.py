"""The plugin in a project without Django. tests/sample_project/suite_fixtures.py has it in one with it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.testing.entry_point import with_entry_point

TESTS = """
import sys

def test_nothing_of_django_is_imported(request):
    assert request.config.pluginmanager.get_plugin("pgonly_django")
    assert not [name for name in sys.modules if name.partition(".")[0] in ("django", "psycopg", "asgiref")]

def test_a_fixture_that_is_asked_for_says_what_it_lacks(pgonly_drain):
    pass
"""


def run(*arguments, cwd):
    made = cwd / "site"
    made.mkdir()
    environment = {**os.environ, "PYTHONPATH": with_entry_point(made)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_django_it_does_nothing(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    done = run(
        "-m", "pytest", "-q", "-p", "no:django", "-p", "no:randomly", "-p", "no:cacheprovider", cwd=tmp_path
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "fixture 'db' not found" in done.stdout


def test_importing_the_package_imports_nothing_of_django_s_tests(tmp_path):
    code = """
import sys
import pgonly_django.testing.pytest_plugin
assert not [name for name in sys.modules if name.startswith("django")]
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "pgonly_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
)
django.setup()
from pgonly_django.testing import *
assert "django.test" not in sys.modules
assert drain.__name__ == "drain"
"""
    done = run("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
