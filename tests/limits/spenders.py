"""Processes that spend from one budget and are killed: `python -m tests.limits.spenders COUNT SECONDS DATABASE`.

One interpreter sets Django up, forks COUNT spenders, kills one at random every now and then, and forks another one in
its place. It prints how many it has killed, and how many calls were made and refused.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress

import django
from django.conf import settings

KILL_EVERY_SECONDS = 0.15
CAP = "1.00"


def spend(report: int) -> None:
    """Until it is killed. Every call reserves, takes a moment, and is settled, given back or left."""
    from pgonly_django import budget
    from pgonly_django.exceptions import BudgetExceededError

    random.seed(os.getpid())
    while True:
        reserved = round(random.uniform(0.001, 0.05), random.randint(3, 6))
        try:
            with budget("shared", CAP).reserve(reserved) as reservation:
                time.sleep(random.uniform(0, 0.02))
                what = random.random()
                if what < 0.5:
                    reservation.settle(random.uniform(0, reserved / 20))
                elif what < 0.95:
                    reservation.release()
                elif what < 0.97:
                    raise KeyError
        except BudgetExceededError:
            os.write(report, b"refused\n")
            time.sleep(random.uniform(0, 0.01))
        except KeyError:
            continue
        else:
            os.write(report, b"made\n")


def fork(report: int) -> int:
    child = os.fork()
    if child:
        return child
    with suppress(BaseException):
        spend(report)
    os._exit(1)


def main() -> None:
    count, seconds, database = sys.argv[1:]
    django.setup()
    settings.DATABASES["default"]["NAME"] = database
    reader, report = os.pipe()
    os.set_blocking(reader, False)
    children = [fork(report) for _ in range(int(count))]
    stop_at, killed, said = time.monotonic() + float(seconds), 0, b""
    while time.monotonic() < stop_at:
        time.sleep(KILL_EVERY_SECONDS)
        with suppress(BlockingIOError):
            said += os.read(reader, 1_000_000)
        place = random.randrange(len(children))
        os.kill(children[place], signal.SIGKILL)
        os.waitpid(children[place], 0)
        killed += 1
        children[place] = fork(report)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    answer = {"killed": killed, "made": said.count(b"made"), "refused": said.count(b"refused")}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
