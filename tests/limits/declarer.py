"""A process of one version of the code: `python -m tests.limits.declarer PGONLY`.

It loads its settings, and then does what it is told, line by line: "limiter", "budget", "budget 7" and "queue" use or
declare them, "later" is as if a minute had passed. It answers each line with an empty one.
"""

from __future__ import annotations

import json
import sys

import django
from django.conf import settings


def do(command: str) -> None:
    from pgonly_django import budget, limiter
    from pgonly_django.limits import budget as budget_module
    from pgonly_django.limits import declarations
    from pgonly_django.queue.declared_queues import declare_queues

    match command.split():
        case ["limiter"]:
            with limiter("x"):
                pass
        case ["budget", *cap]:
            with budget("x", *map(int, cap)).reserve(0):
                pass
        case ["queue"]:
            declare_queues("default")
        case ["later"]:
            for rows in (budget_module.ROWS, declarations.ROWS):
                rows.said = {key: said._replace(at=said.at - 60) for key, said in rows.said.items()}


def main() -> None:
    settings.PGONLY = {**settings.PGONLY, **json.loads(sys.argv[1])}
    django.setup()
    print(flush=True)
    for line in sys.stdin:
        do(line)
        print(flush=True)


if __name__ == "__main__":
    main()
