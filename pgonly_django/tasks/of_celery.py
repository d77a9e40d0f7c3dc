"""What people who know Celery write by habit, and what stands for it here."""

from __future__ import annotations

from typing import Any

ALWAYS = "nothing: leave it out. A job whose worker dies always runs again"
RUN_AFTER = ".using(run_after=timezone.now() + delay).enqueue(...)"
ON_FAILURE = "on_failure=, a function (task_result, error)"
# Options of Celery's, and what stands for each.
OPTIONS = {
    "max_retries": "max_attempts=, which counts the first run too",
    "default_retry_delay": "backoff=",
    "retry_backoff": "backoff=",
    "retry_backoff_max": "backoff=",
    "autoretry_for": "retry_on=",
    "dont_autoretry_for": "never_retry=",
    "countdown": RUN_AFTER,
    "eta": ".using(run_after=an aware datetime).enqueue(...)",
    "queue": "queue_name=",
    "routing_key": "queue_name=",
    "bind": "takes_context=True",
    "name": "the path of the function. aliases= takes its former paths",
    "task_id": ".using(idempotency_key=...).enqueue(...)",
    "acks_late": ALWAYS,
    "reject_on_worker_lost": ALWAYS,
    "time_limit": "max_runtime=",
    "soft_time_limit": "max_runtime=",
    "rate_limit": 'PGONLY["QUEUES"][name]["rate"], for all workers together',
    "ignore_result": "retention=",
    "result_expires": "retention=",
    "link": ".using(then=...).enqueue(...)",
    "link_error": ON_FAILURE,
}
# The same of attributes of a task.
ATTRIBUTES = {
    "delay": ".enqueue(...)",
    "delay_on_commit": ".enqueue(...), which commits with your transaction",
    "apply_async": ".enqueue(...), or .using(queue_name=..., run_after=...).enqueue(...)",
    "apply": ".call(...)",
    "s": ".bind(...)",
    "si": ".bind(...)",
    "signature": ".bind(...)",
    "retry": "raise Retry(delay), imported from pgonly_django",
    "AsyncResult": ".get_result(id)",
    "map": "enqueue_many(), imported from pgonly_django",
    "chunks": "enqueue_many(), imported from pgonly_django",
}


def option_answer(where: str, name: str) -> str:
    """Returns the message about an option of Celery's; otherwise the empty string."""
    return f"{where}: {name} is an option of Celery. Here it is {OPTIONS[name]}." if name in OPTIONS else ""


def attribute_error(task: Any, name: str) -> AttributeError:
    """Returns the error for an attribute that the task does not have."""
    if name not in ATTRIBUTES:  # perhaps of a copy that has no func yet
        return AttributeError(
            f"{type(task).__name__!r} object has no attribute {name!r}", name=name, obj=task
        )
    call = f"{task.func.__qualname__}.{name}"
    return AttributeError(f"{call} is Celery's. Here it is {ATTRIBUTES[name]}.", name=name, obj=task)
