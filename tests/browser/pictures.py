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
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from pgonly_django.embedded import Server
from tests.browser.chromium import Chromium, listen
from tests.browser.site import ROOT, SETTINGS, Site, cookie_of

THEMES, WIDTHS, COLOURS = ("plain", "unfold", "jazzmin"), (1280, 390, 1024), ("light", "dark")
HEIGHTS = {1280: 900, 1024: 768, 390: 844}
WORKS_FOR_SECONDS = 6.0  # so that jobs run, and some have ended
SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    with database() as url:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": SETTINGS}
        user = prepare_site(arguments.role)
        with Chromium() as chromium:
            for theme in arguments.theme:
                with Site(
                    url, arguments.folder / f"{theme}.log", theme, SCREENING_DELAY_SECONDS="0.5"
                ) as site:
                    _take_all(chromium, site, theme, user, arguments)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--theme", type=_of(THEMES), default=THEMES, help="plain,unfold,jazzmin")
    parser.add_argument(
        "--width", type=_of(map(str, WIDTHS)), default=[str(each) for each in WIDTHS], help="1280,390"
    )
    parser.add_argument("--colours", type=_of(COLOURS), default=COLOURS, help="light,dark")
    parser.add_argument(
        "--only", default="", help="pages whose name has this part, several with commas; default: all"
    )
    parser.add_argument(
        "--role", choices=["admin", "operator", "reader"], default="admin", help="who is signed in"
    )
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def _of(choices: Any) -> Any:
    known = tuple(choices)

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return chosen

    return parse


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
            yield psycopg_url(connection, name)
        finally:
            _close_connections()
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    if is_ours:
        server.stop()


def psycopg_url(connection: psycopg.Connection[Any], name: str) -> str:
    place = connection.info
    if place.host.startswith("/"):
        return f"postgres://{place.user}@/{name}?host={place.host}"
    return f"postgres://{place.user}:{place.password}@{place.host}:{place.port}/{name}"


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


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


def _take_all(chromium: Chromium, site: Site, theme: str, user: Any, arguments: argparse.Namespace) -> None:
    from tests.browser.pages import pages

    with worker(site):
        parts = [part for part in arguments.only.split(",") if part]
        wanted = {
            name: path for name, path in pages().items() if not parts or any(part in name for part in parts)
        }
        for width in map(int, arguments.width):
            for colours in arguments.colours:
                _take(
                    chromium,
                    site,
                    user,
                    wanted,
                    arguments.folder / f"{theme}-{width}-{colours}",
                    width,
                    colours,
                )


def _take(
    chromium: Chromium, site: Site, user: Any, wanted: dict[str, str], folder: Path, width: int, colours: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    viewport = {"width": width, "height": HEIGHTS[width]}
    context = chromium.new_context(viewport=viewport, color_scheme=colours, reduced_motion="reduce")
    context.add_cookies([cookie_of(user, site.url)])
    page = context.new_page()
    complaints: list[str] = []
    listen(page, complaints)
    for name, path in wanted.items():
        complaints.clear()
        answer = page.goto(site.url + path, wait_until="load")
        page.screenshot(path=str(folder / f"{name}.png"), full_page=True)
        notes = [f"answered {answer.status}"] if answer.status != 200 else []
        if (beyond := page.evaluate(SCROLLS_SIDEWAYS)) > 0:
            notes.append(f"scrolls sideways by {beyond} px")
        for note in (*notes, *complaints):
            print(f"{folder.name}/{name} ({path}): {note[:300]}", flush=True)
    context.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
