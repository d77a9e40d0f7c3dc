"""A project with the LOGGING of docs/how-to/observability.md#logging, and Django's own loggers as Django makes them."""

from tests.docs.pages import snippet
from tests.process.worker_settings import *  # noqa: F403 - settings of settings

DEBUG = True

# Makes LOGGING.
exec(snippet("how-to/observability.md", "JobFilter"))
