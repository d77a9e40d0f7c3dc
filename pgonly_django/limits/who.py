"""Who holds a slot or waits for it, for people."""

import os
import socket
import threading

from pgonly_django.current_job import current_job
from pgonly_django.database.statement import printable
from pgonly_django.models.limiter import WHO_LENGTH


def who() -> str:
    """The job whose code runs here, else the process and its thread."""
    if (run := current_job.get()) is not None:
        text = f"job {run.job.id} ({run.job.task})"
    else:
        text = f"{socket.gethostname()}, process {os.getpid()}, {threading.current_thread().name}"
    return printable(text)[:WHO_LENGTH]
