"""A project with a queue of dead letters."""

from __future__ import annotations

from tests.process.worker_settings import *  # noqa: F403
from tests.settings import PGONLY as OF_TESTS

PGONLY = {**OF_TESTS, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
