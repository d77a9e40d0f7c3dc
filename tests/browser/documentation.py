"""python -m tests.browser.documentation [FOLDER]: the pictures of README and docs, taken of the running demo: the
animation of a screening whose worker is killed, and pages of the admin. FOLDER: docs/pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.browser.animation import Moment, Recording, drawing
from tests.browser.chromium import Chromium
from tests.browser.pictures import database, prepare_site, worker
from tests.browser.site import ROOT, SETTINGS, Site, cookie_of
from tests.waiting import wait_for

LEASE_SECONDS = "12"  # so that the takeover comes soon
DELAY_SECONDS = "0.12"  # of each call of a reviewer
ADMIN = {"overview": "overview.png", "job-resumed": "job.png", "job-list-failed": "jobs.png"}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.documentation", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "pictures")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    with database() as url, tempfile.TemporaryDirectory() as scratch, Chromium() as chromium:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": SETTINGS}
        user = prepare_site("admin")
        as_the_demo = {"SCREENING_DELAY_SECONDS": DELAY_SECONDS, "SCREENING_REUSE_ANSWERS": "false"}
        with Site(url, Path(scratch) / "site.log", TEST_LEASE_SECONDS=LEASE_SECONDS, **as_the_demo) as site:
            _killed_and_resumed(site, folder)
            _admin(chromium, site, user, folder)
    return 0


def _killed_and_resumed(site: Site, folder: Path) -> None:
    """The newest project, whose worker is killed half way."""
    watch = Watch(site)
    first = _start_worker(site)
    try:
        watch.until(lambda now: 2 * now.done >= now.total)
    finally:
        first.kill()
        first.wait(10)
    killed_at = watch.seconds()
    second = _start_worker(site)
    try:
        watch.until(lambda now: now.state == "succeeded")
    finally:
        second.terminate()
        second.wait(30)
    recording = Recording(watch.moments, killed_at, int(LEASE_SECONDS))
    (folder / "killed_and_resumed.svg").write_text(drawing(recording))


def _start_worker(site: Site) -> Any:
    return site.start("runworker", "--queues", "screening", "--threads", "2", "--grace-seconds", "1")


class Watch:
    """Polls what the page of the newest project polls, and keeps it from the first moment of a worker on."""

    def __init__(self, site: Site) -> None:
        from example_project.screening.models import Project

        self._address = f"{site.url}/projects/{Project.objects.latest('pk').pk}/progress.json"
        self.moments: list[Moment] = []
        self._began = 0.0

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def until(self, is_so: Callable[[Moment], bool]) -> None:
        wait_for(lambda: self._look() and is_so(self.moments[-1]), 60)

    def _look(self) -> bool:
        """Whether a worker has begun."""
        with urlopen(self._address, timeout=10) as answer:
            now = json.load(answer)
        if not self.moments and now["state"] == "running":
            self._began = time.monotonic()
        if self._began:
            moment = Moment(self.seconds(), now["state"], now["done"], now["total"], now["facts"]["calls"])
            self.moments.append(moment)
        return bool(self.moments)


def _admin(chromium: Any, site: Site, user: Any, folder: Path) -> None:
    from tests.browser.pages import pages

    context = chromium.new_context(viewport={"width": 1280, "height": 1200}, reduced_motion="reduce")
    context.add_cookies([cookie_of(user, site.url)])
    page = context.new_page()
    with worker(site):
        for name, path in pages().items():
            if name in ADMIN:
                page.goto(site.url + path, wait_until="load")
                page.screenshot(path=str(folder / ADMIN[name]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
