"""A laptop's: DEBUG on, and Django's own logging."""

from tests.process.worker_settings import *  # noqa: F403 - settings of settings

DEBUG = True
