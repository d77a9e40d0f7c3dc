"""python -m tests.browser.pictures FOLDER: a picture of each page of the seeded demo, in Chromium, at both widths, in
light and dark, with Django's own admin and under each theme. Prints what the browser complained about, and pages that
scroll sideways. FOLDER/THEME-WIDTH-COLOURS/PAGE.png"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from django.db import connections

from pgonly_django.embedded import Server
from tests.browser.chromium import SCROLLS_SIDEWAYS, Chromium, listen
from tests.browser.site import ROOT, SETTINGS, Site, cookie_of

THEMES, WIDTHS, COLOURS = ("plain", "unfold", "jazzmin"), (1366, 390, 1024), ("light", "dark")
HEIGHTS = {1366: 900, 1024: 768, 390: 844}
WORKS_FOR_SECONDS = 6.0  # so that jobs run, and some have ended


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    with database() as url:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": SETTINGS}
        user = prepare_site(arguments.role)
        with Chromium() as chromium:
            for theme in arguments.theme:
                log = arguments.folder / f"{theme}.log"
                with Site(url, log, theme, SCREENING_DELAY_SECONDS="0.5") as site, worker(site):
                    for width, colours in product(arguments.width, arguments.colours):
                        _take(chromium, site, user, arguments, theme, width, colours)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--theme", nargs="+", choices=THEMES, default=THEMES)
    parser.add_argument("--width", nargs="+", type=int, choices=WIDTHS, default=WIDTHS)
    parser.add_argument("--colours", nargs="+", choices=COLOURS, default=COLOURS)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of pages; default: all")
    parser.add_argument("--role", choices=["admin", "operator", "reader"], default="admin", help="who looks")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


@contextmanager
def database() -> Iterator[str]:
    """The URL of a new database, dropped at the end, on the server of DATABASE_URL or the checkout's embedded one."""
    name = f"pictures_{uuid4().hex[:12]}"
    server = Server(ROOT / ".postgres")
    is_ours = not os.environ.get("DATABASE_URL") and server.start()
    start = os.environ.get("DATABASE_URL") or server.url()
    with psycopg.connect(start, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlsplit(start)._replace(path=f"/{name}").geturl()
        finally:
            connections.close_all()
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    if is_ours:
        server.stop()


def prepare_site(role: str) -> Any:
    """Migrate, seed, and let a worker work for a moment. Returns who looks at the pages."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from example_project.screening.demo import prepare, seeding
    from example_project.screening.tasks import start_screening

    call_command("migrate", verbosity=0)
    prepare.make_admin()
    seeding.seed()
    start_screening(prepare.load(prepare.SAMPLE))
    return get_user_model().objects.get(username=prepare.USERNAME if role == "admin" else role)


@contextmanager
def worker(site: Site) -> Iterator[None]:
    from example_project.screening.demo.sample_tasks import SERVED

    queues = ",".join(("screening", *SERVED))
    process = site.start("runworker", "--queues", queues, "--threads", "6", "--grace-seconds", "1")
    time.sleep(WORKS_FOR_SECONDS)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _take(
    chromium: Chromium, site: Site, user: Any, arguments: Any, theme: str, width: int, colours: str
) -> None:
    from tests.browser.pages import pages

    name = f"{theme}-{width}-{colours}"
    folder = arguments.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    viewport = {"width": width, "height": HEIGHTS[width]}
    context = chromium.new_context(viewport=viewport, color_scheme=colours, reduced_motion="reduce")
    context.add_cookies([cookie_of(user, site.url)])
    page = context.new_page()
    complaints: list[str] = []
    listen(page, complaints)
    for shown, path in pages().items():
        if not any(part in shown for part in arguments.only):
            continue
        complaints.clear()
        answer = page.goto(site.url + path, wait_until="load")
        page.screenshot(path=str(folder / f"{shown}.png"), full_page=True)
        notes = [f"answered {answer.status}"] if answer.status != 200 else []
        if (beyond := page.evaluate(SCROLLS_SIDEWAYS)) > 0:
            notes.append(f"scrolls sideways by {beyond} px")
        for note in (*notes, *complaints):
            print(f"{name}/{shown} ({path}): {note[:300]}", flush=True)
    context.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
