"""DATABASE_URL leads through a pooler, TEST_DIRECT_URL past it."""

from __future__ import annotations

from tests.process.worker_settings import *  # noqa: F403
from tests.settings import DATABASES as OF_TESTS
from tests.settings import PGONLY as PGONLY_OF_TESTS
from tests.settings import env

DATABASES = {**OF_TESTS, "direct": env.db("TEST_DIRECT_URL")}
PGONLY = {**PGONLY_OF_TESTS, "LISTEN_DATABASE": "direct"}
