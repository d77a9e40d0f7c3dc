"""A project with the LOGGING of docs/how-to/logging.md, and Django's own loggers as Django makes them."""

from tests.process.worker_settings import *  # noqa: F403 - settings of settings
from tests.snippets import snippet

DEBUG = True

# Makes LOGGING.
exec(snippet("how-to/logging.md", "JobFilter"))
