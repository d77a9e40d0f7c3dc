"""The first second of `manage.py demo`: what it does, and whether its port is free, before the settings are imported,
which start the database. And its last one: Ctrl-C at any time ends it with a line."""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
PORT = 8000
INTERRUPTED = 130  # the usual exit code after Ctrl-C
BEGINS = "Starting the database{rest}. This takes 10 to 20 seconds."
IN_USE = "Port {port} is in use: choose another with --port."


def run(argv: Sequence[str]) -> None:
    """`manage.py demo` with these arguments, the name of the program among them."""
    try:
        _begin(argv[2:])
        from django.core.management import execute_from_command_line  # which takes a while

        execute_from_command_line(list(argv))
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted: the demo ends.\n")
        sys.exit(INTERRUPTED)


def answers(port: int) -> bool:
    """Whether a server listens on 127.0.0.1:`port`."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _begin(arguments: Sequence[str]) -> None:
    known = argparse.ArgumentParser(prog="manage.py demo", add_help=False, allow_abbrev=False)
    for flag in ("--headless", "--json", "--help", "-h"):
        known.add_argument(flag, action="store_true")
    known.add_argument("--port", type=int, default=PORT)
    given = known.parse_known_args(arguments)[0]
    if given.help or given.h or given.json:
        return
    if not given.headless and answers(given.port):
        sys.exit(IN_USE.format(port=given.port))
    sys.stdout.write(BEGINS.format(rest="" if given.headless else ", a web server and a worker") + "\n")
    sys.stdout.flush()
