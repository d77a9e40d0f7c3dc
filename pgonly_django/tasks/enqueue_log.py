"""One log line, at DEBUG, for each job that was enqueued and committed."""

import logging
from typing import Any

from pgonly_django.compat import tasks_logger
from pgonly_django.events import emit, has_listeners

_logger = logging.getLogger("pgonly_django.queue")


def logs_enqueued() -> bool:
    """Whether anybody wants to know. Where Django's own logger is at DEBUG, its line is enough."""
    is_logged = _logger.isEnabledFor(logging.DEBUG) and not tasks_logger.isEnabledFor(logging.DEBUG)
    return is_logged or has_listeners()


def log_enqueued(result: Any) -> None:
    task = result.task
    due = f", due {task.run_after:%Y-%m-%d %H:%M:%S %Z}".rstrip() if task.run_after else ""
    message = f"{task.module_path} {result.id}: enqueued to {task.queue_name}{due}."
    facts = {"job_id": result.id, "task": task.module_path, "queue": task.queue_name}
    emit("queue.enqueued", message, level=logging.DEBUG, **facts)
