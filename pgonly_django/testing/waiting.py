"""assert_waiting_for(): what the jobs of a test wait for."""

from __future__ import annotations

from pgonly_django.models import Wait
from pgonly_django.testing.backends import databases_of, postgres_backends
from pgonly_django.testing.enqueued import listed, times


def assert_waiting_for(key: str, *, count: int | None = None) -> list[Wait]:
    """Asserts that at least one job, or `count` jobs, wait for the event `key`.

        drain()
        assert_waiting_for("approve:7")
        send_event("approve:7", {"by": 3})
        drain()

    Returns the rows of their waits, with the `job`, and the `question` and the `choices` for a person."""
    __tracebackhide__ = True
    waits = [
        wait
        for database in databases_of(postgres_backends())
        for wait in Wait.objects.using(database).open().select_related("job").order_by("pk")
    ]
    found = [wait for wait in waits if wait.key == key]
    if len(found) == count or (count is None and found):
        return found
    wanted = "" if count is None else f", not {times(count)}"
    is_waited_for = f"The event {key!r} is waited for {times(len(found))}{wanted}."
    lines = [f"{wait.job.task} {wait.job_id}: {wait.name}" for wait in waits]
    raise AssertionError(f"{is_waited_for} {listed('Jobs wait:', lines, 'No job waits.')}")
