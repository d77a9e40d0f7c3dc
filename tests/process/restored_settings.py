"""Of a site whose database was restored, with the server from before under another alias."""

import environ

from tests.process.worker_settings import *  # noqa: F403 - settings of settings
from tests.process.worker_settings import DATABASES

DATABASES["before"] = environ.Env().db("BEFORE_URL")
