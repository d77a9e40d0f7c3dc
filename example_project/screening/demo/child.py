"""A child process of the demo: a management command that ends when the demo ends, even by SIGKILL.

Run as `python -m example_project.screening.demo.child runworker ...`. Its standard input is a pipe. Only the demo holds
the other end, and writes nothing to it, so the pipe closes when the demo is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

STDIN = 0
STOP_SECONDS = 10.0


def main() -> None:
    from django.core.management import execute_from_command_line

    threading.Thread(target=_watch_the_demo, name="demo-watch", daemon=True).start()
    execute_from_command_line(["manage.py", *sys.argv[1:]])


def _watch_the_demo() -> None:
    """Send this process SIGTERM when the pipe closes, and SIGKILL 10 s later."""
    while os.read(STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
