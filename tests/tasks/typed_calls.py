"""What editors and mypy know of tasks. mypy checks this file, and reports a `type: ignore` that is not needed: each
stands at a mistake that it has to find. No test runs it."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from pgonly_django import RESULT, JobContext, budget, cron, every, task
from pgonly_django.tasks.result import JobResult


@task
def add(first: int, second: int = 1) -> int:
    return first + second


@task(max_attempts=3, unique_while="waiting")
async def fetch(url: str) -> bytes:
    return url.encode()


@task(takes_context=True, max_runtime=timedelta(minutes=5))
def screen(context: JobContext, project_id: int) -> dict[str, int]:
    return {context.job_id: project_id}


@cron("0 3 * * *", catch_up="none")
@task
def report(project_id: int) -> None: ...


@every(timedelta(minutes=5))
@task(takes_context=True, atomic=True)
def refresh(context: JobContext, project_id: int) -> str:
    return f"{context.attempt} {project_id}"


def types_of_results() -> None:
    assert_type(add.enqueue(1, second=2), JobResult[int])
    assert_type(add.using(max_attempts=2, idempotency_key="42").enqueue(1).return_value, int)
    assert_type(fetch.enqueue("https://example.com").wait(timeout=5).return_value, bytes)
    assert_type(screen.enqueue(7).job.state, str)
    assert_type(refresh.get_result("id").return_value, str)
    report.enqueue(project_id=7)
    assert_type(add.using(then=fetch.bind(RESULT)).enqueue(1), JobResult[int])


async def types_of_async_results() -> None:
    assert_type(await refresh.aenqueue(7), JobResult[str])


def mistakes_in_calls() -> None:
    add.enqueue("1")  # type: ignore[arg-type] # a str is not an int
    add.enqueue(1, 2, 3)  # type: ignore[call-arg] # one too many
    add.bind("1")  # type: ignore[arg-type] # likewise
    screen.enqueue()  # type: ignore[call-arg] # project_id is missing
    report.enqueue("7")  # type: ignore[arg-type] # under @cron, too
    refresh.enqueue(context=None, project_id=7)  # type: ignore[call-arg] # the worker passes the context


def mistakes_in_options() -> None:
    task(max_attemps=2)  # type: ignore[call-overload] # misspelt
    task(max_runtime=300)  # type: ignore[call-overload] # not a timedelta
    add.using(unique_while="always")  # type: ignore[arg-type] # not one of its values
    every(60, overlap="wait")  # type: ignore[arg-type] # not one of its values
    budget("nightly", usd=5, per="moon")  # type: ignore[arg-type] # not one of its values
    every(60)(len)  # type: ignore[type-var] # not a task
