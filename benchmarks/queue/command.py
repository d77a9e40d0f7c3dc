"""The command `python -m benchmarks queue`: measures each part against the bare-SQL floor of the same run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from benchmarks import servers
from benchmarks.measure import write_report
from benchmarks.queue.against import compare, serve
from benchmarks.queue.report import Figure, print_table
from benchmarks.queue.sizes import QUICK, Sizes


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.against:
        compare(arguments.against, sizes, ["--quick"] if arguments.quick else [])
        return 0
    figures: list[Figure] = []
    with servers.postgres() as url:
        configure(url)
        if arguments.serve:
            serve(url, sizes)
            return 0
        for name, part in _parts().items():
            if not arguments.only or name in arguments.only:
                made = part(url, sizes)
                print_table(name, made)
                figures += made
    write_report(arguments.json, {"queue": [figure.as_json() for figure in figures]})
    return 0


def _parts() -> dict[str, Callable[[str, Sizes], list[Figure]]]:
    from benchmarks.queue import cost, drain, enqueue, held_snapshot, pickup

    return {
        "enqueue": enqueue.measure,
        "drain": drain.measure,
        "pickup": pickup.measure,
        "cost": cost.measure,
        "held": held_snapshot.measure,
    }


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks queue", description=main.__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    parser.add_argument("--only", type=lambda text: text.split(","), help="enqueue,drain,pickup,cost,held")
    parser.add_argument("--against", metavar="REV", help="this code and that of a git revision in turns")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def configure(url: str) -> None:
    os.environ["BENCH_DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.queue.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
