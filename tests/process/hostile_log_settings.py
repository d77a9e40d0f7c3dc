"""A project with a handler of the log that hangs, or forks, when a job has ended."""

import os
import sys
import time
from logging import LogRecord, StreamHandler
from typing import Any

from tests.process.worker_settings import *  # noqa: F403 - settings of settings

OF_LOG = os.environ["TEST_LOG"]


class Hostile(StreamHandler[Any]):
    def handle(self, record: LogRecord) -> bool | LogRecord:
        if OF_LOG == "forks" and is_end(record) and os.fork() == 0:
            return True
        return super().handle(record)

    def emit(self, record: LogRecord) -> None:
        if OF_LOG == "hangs" and is_end(record):
            time.sleep(600)
        super().emit(record)


def is_end(record: LogRecord) -> bool:
    return getattr(record, "event", "") == "worker.job_ended"


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"hostile": {"()": Hostile, "stream": sys.stdout}},
    "loggers": {"pgonly_django": {"handlers": ["hostile"], "level": "INFO"}},
}
