"""The command `python -m benchmarks pages`: a million jobs, and each page of the admin ten times."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.measure import median, write_report
from benchmarks.pages.sizes import QUICK, Sizes

REQUESTS = 10
LIMIT_MS = 300.0


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    with servers.postgres("shared_buffers=512MB", "max_wal_size=4GB") as url:
        client = _site(url)
        from benchmarks.pages.tables import fill  # which needs the models

        fill(url, QUICK if arguments.quick else Sizes(jobs=arguments.jobs))
        figures = _measure(client, arguments)
    write_report(arguments.json, {"pages": figures})
    slow = [figure["path"] for figure in figures if figure["slowest_ms"] > LIMIT_MS]
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        print("\nThe machine was busy with something else: the times by the clock say little, see CPU ms.")
    print(f"\n{len(figures)} pages, {len(slow)} of them took longer than {LIMIT_MS:g} ms", *slow, sep="\n  ")
    return 1 if slow else 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pages", description=main.__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument(
        "--explain", metavar="FOLDER", type=Path, help="write each statement's plan into a file a page"
    )
    parser.add_argument("--only", default="", metavar="PART", help="pages whose address has this part")
    parser.add_argument("--jobs", type=int, default=Sizes.jobs, help="how many jobs")
    parser.add_argument(
        "--quick", action="store_true", help="small tables: for a first look, not for figures"
    )
    return parser.parse_args(argv)


def _site(url: str) -> Any:
    """A client that is signed in as a superuser, on a migrated database."""
    os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "benchmarks.pages.settings"}
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


def _measure(client: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.pages.plans import plans, write
    from benchmarks.pages.visits import paths, visited

    figures = []
    print(f"\n{'p50 ms':>8} {'slowest':>8} {'CPU ms':>8} {'statements':>10} {'kB':>6}  page")
    for path in dict.fromkeys(path for path in paths(client) if arguments.only in path):
        visits = visited(client, path, REQUESTS)
        found = plans(lambda path=path: client.get(path))
        if arguments.explain:
            write(arguments.explain, path, found)
        figure = {
            "path": path,
            "p50_ms": median(visits.milliseconds),
            "slowest_ms": max(visits.milliseconds),
            "cpu_ms": visits.cpu_milliseconds,
            "statements": len(found),
            "bytes": visits.size,
        }
        figures.append(figure)
        print(_line(figure), flush=True)
    return figures


def _line(figure: dict[str, Any]) -> str:
    times = "".join(f"{figure[name]:8.1f} " for name in ("p50_ms", "slowest_ms", "cpu_ms"))
    mark = "  SLOW" if figure["slowest_ms"] > LIMIT_MS else ""
    return f"{times}{figure['statements']:10} {figure['bytes'] / 1000:6.0f}  {figure['path']}{mark}"
