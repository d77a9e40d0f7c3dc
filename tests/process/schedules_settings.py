"""A deploy whose schedules are those of TEST_SCHEDULES, in JSON."""

from __future__ import annotations

import json
import os

from tests.process.worker_settings import *  # noqa: F403
from tests.settings import PGONLY as OF_TESTS

PGONLY = {**OF_TESTS, "SCHEDULES": json.loads(os.environ["TEST_SCHEDULES"])}
