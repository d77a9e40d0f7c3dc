import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each with the tests of Django's that it stands before, in tests/contract/session_suite.py.
REASONS = {
    "the row knows the hash of the key only: tests/sessions/test_leaks.py, test_model.py",
    "it looks into django_session: tests/sessions/test_store.py has its like",
    "nothing but the store writes rows, so that every write is a merge",
}


def test_djangos_own_session_tests_pass_but_for_those_that_read_the_key_from_the_row():
    command = [sys.executable, "-m", "django", "test", "tests.contract.session_suite", "--verbosity", "2"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.contract.session_settings"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*command, "--noinput"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    skips = re.findall(r"skipped '(.*)'", done.stderr)
    assert int(re.search(r"Ran (\d+) tests", done.stderr).group(1)) > 200
    assert len(skips) == 7
    assert set(skips) == REASONS
