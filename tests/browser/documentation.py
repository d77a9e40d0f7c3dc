"""python -m tests.browser.documentation [FOLDER]: the pictures of README and docs, taken of the running demo: a
screening whose worker is killed and whose job goes on in another one, and pages of the admin. FOLDER: docs/pictures."""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.browser.chromium import Chromium
from tests.browser.pictures import database, prepare_site, worker
from tests.browser.site import ROOT, SETTINGS, Site, cookie_of
from tests.waiting import wait_for

LEASE_SECONDS = "12"  # so that the takeover comes soon
DELAY_SECONDS = "0.12"  # of each call of a reviewer
ADMIN = {"overview": "overview.png", "job-running": "job.png", "job-list-failed": "jobs.png"}
TOGETHER = """
<style>
    body { margin: 0; padding: 16px; display: flex; gap: 16px; background: #fff; font: 15px system-ui, sans-serif }
    figure { margin: 0; width: 430px } img { width: 100%; border: 1px solid #ccc; border-radius: 6px }
    figcaption { margin: 0 0 8px; color: #222 }
</style>
"""
FIGURE = '<figure><figcaption>{}</figcaption><img src="data:image/png;base64,{}"></figure>'


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.documentation", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "pictures")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    with database() as url, tempfile.TemporaryDirectory() as scratch, Chromium() as chromium:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": SETTINGS}
        user = prepare_site("admin")
        variables = {"SCREENING_DELAY_SECONDS": DELAY_SECONDS, "TEST_LEASE_SECONDS": LEASE_SECONDS}
        with Site(url, Path(scratch) / "site.log", **variables) as site:
            _killed_and_resumed(chromium, site, folder)
            _admin(chromium, site, user, folder)
    return 0


def _killed_and_resumed(chromium: Any, site: Site, folder: Path) -> None:
    """The newest project, at three moments, side by side."""
    from example_project.screening.models import Project

    page = chromium.new_context(viewport={"width": 620, "height": 560}).new_page()
    page.goto(f"{site.url}/projects/{Project.objects.latest('pk').pk}/")
    first = _start_worker(site)
    try:
        pictures = [("Two models screen forty papers", _running(page, 40))]
        first.kill()
        _wait_until(page, lambda _, text: "silent" in text)
        pictures.append(("<b>kill -9</b>: the worker is gone", page.screenshot()))
    finally:
        first.kill()
        first.wait(10)
    second = _start_worker(site)
    try:
        stood_at = _done(page)
        pictures.append(("Another worker goes on where it stopped", _running(page, stood_at + 30)))
    finally:
        second.terminate()
        second.wait(30)
    _put_together(chromium, pictures, folder / "killed_and_resumed.png")


def _running(page: Any, least: float) -> bytes:
    """From `least` percent on, while the worker is heard of: on a busy machine it may be silent for a moment."""
    while True:
        _wait_until(page, lambda done, text: done >= least and "Running" in text)
        picture: bytes = page.screenshot()
        if "Running" in page.locator(".pgonly-progress").inner_text():
            return picture


def _start_worker(site: Site) -> Any:
    return site.start("runworker", "--queues", "screening", "--threads", "2", "--grace-seconds", "1")


def _wait_until(page: Any, is_so: Callable[[float, str], bool]) -> None:
    wait_for(lambda: is_so(_done(page), page.locator(".pgonly-progress").inner_text()), 60)


def _done(page: Any) -> float:
    """In percent."""
    return float(page.evaluate("100 * (document.querySelector('.pgonly-progress progress')?.position ?? 0)"))


def _put_together(chromium: Any, pictures: list[tuple[str, bytes]], file: Path) -> None:
    figures = "".join(FIGURE.format(text, base64.b64encode(picture).decode()) for text, picture in pictures)
    context = chromium.new_context(viewport={"width": 1368, "height": 200}, device_scale_factor=1.5)
    page = context.new_page()
    page.set_content(TOGETHER + figures)
    page.screenshot(path=str(file), full_page=True)


def _admin(chromium: Any, site: Site, user: Any, folder: Path) -> None:
    from tests.browser.pages import pages

    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.add_cookies([cookie_of(user, site.url)])
    page = context.new_page()
    with worker(site):
        for name, path in pages().items():
            if name in ADMIN:
                page.goto(site.url + path, wait_until="load")
                page.screenshot(path=str(folder / ADMIN[name]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
