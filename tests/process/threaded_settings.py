"""Settings of a project that starts a thread when it is loaded. The thread of a supervisor holds a lock."""

import os
import threading

from tests.process.worker_settings import *  # noqa: F403 - as every settings module that extends another

LOCK = threading.Lock()
IS_CHILD = "_PGONLY_WORKER_CHILD" in os.environ


def hold() -> None:
    LOCK.acquire()
    threading.Event().wait()


if not IS_CHILD:
    threading.Thread(target=hold, name="a library's", daemon=True).start()
