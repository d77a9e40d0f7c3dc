"""Tasks that change, or leave, the process they run in."""

from __future__ import annotations

import locale
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from pgonly_django import task
from tests.jobs import mark


@task(max_attempts=1)
def exit_with_a_code():
    sys.exit(3)


@task(max_attempts=1)
def interrupt_itself():
    raise KeyboardInterrupt


@task(max_attempts=1)
def take_over_signals():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@task
def move_away():
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    Path(directory).rmdir()


@task
def close_streams():
    for number in (0, 1, 2):
        os.close(number)


@task
def set_places():
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()
    locale.setlocale(locale.LC_ALL, "C")
    sys.setswitchinterval(1.0)


@task
def start_threads_for_ever():
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(600,)).start()


@task
def use_up_threads():
    """None can be started any more."""
    threading.stack_size(1 << 46)


@task(max_attempts=1)
def hold_files(key, seconds):
    """As many as the process may have open."""
    mark(key)
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        time.sleep(seconds)
    finally:
        for number in held:
            os.close(number)
