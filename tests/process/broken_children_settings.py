"""Settings with which a supervisor starts, and none of its processes does."""

import os

from tests.process.worker_settings import *  # noqa: F403 - as every settings module that extends another

if "_PGONLY_WORKER_CHILD" in os.environ:
    raise RuntimeError("A broken deploy.")
