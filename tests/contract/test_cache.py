import os
import re
import subprocess
import sys
from pathlib import Path

# Each with the tests of Django's that it stands before, in tests/contract/cache_suite.py.
REASONS = {
    "any key works here, so there is none to warn of",
    "bounds are held by evicting just the excess, not a share of all: tests/cache/test_bounds.py",
    "delete_many says how many there were, so 0 and not None",
}
ROOT = Path(__file__).resolve().parents[2]


def run_suite(label: str, settings: str) -> str:
    command = [
        sys.executable,
        "-m",
        "django",
        "test",
        label,
        "--verbosity",
        "2",
        "--noinput",
        "--parallel",
        "2",
    ]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": settings, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


def test_djangos_own_cache_tests_pass_but_for_those_that_want_less():
    output = run_suite("tests.contract.cache_suite", "tests.contract.cache_settings")
    ran = int(re.search(r"Ran (\d+) tests", output).group(1))
    skips = re.findall(r"skipped '(.*)'", output)
    assert ran > 150
    assert len(skips) == 12
    assert set(skips) == REASONS
