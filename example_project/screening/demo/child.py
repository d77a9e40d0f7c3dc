"""A child of the demo: a management command that ends when the demo does, even by SIGKILL.

`python -m example_project.screening.demo.child runworker ...`, with a pipe as standard input whose other end the demo
alone holds and never writes to.
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

    threading.Thread(target=_end_with_the_demo, name="demo-watch", daemon=True).start()
    execute_from_command_line(["manage.py", *sys.argv[1:]])


def _end_with_the_demo() -> None:
    """SIGTERM to this process once the pipe is closed, SIGKILL if it is still there after 10 s."""
    while os.read(STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
