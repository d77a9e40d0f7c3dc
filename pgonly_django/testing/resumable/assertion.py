"""assert_resumable(): what a project's test calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import models

from pgonly_django.testing.resumable.choices import Choices
from pgonly_django.testing.resumable.rounds import ResumableReport, Rounds


def assert_resumable(
    task: Any,
    *args: Any,
    kwargs: dict[str, Any] | None = None,
    state: Callable[[], Any] | None = None,
    ignore: Sequence[str | type[models.Model]] = (),
    paid: Sequence[str | Callable[..., Any]] = (),
    setup: Callable[[], Any] | None = None,
    kill_at: int | Sequence[int] = (),
    max_kills: int = 100,
) -> ResumableReport:
    """Run the job of this call without a kill, then kill it at each place and resume it. Raises NotResumableError where
    a resumed job ends in another state, or has paid for a step more often.

    The places are after each commit, after each write to the cache, between the call of a step and its save, around
    each checkpoint and each position of iterate(), and when the function has returned. Positions of loops are saved
    once a second in production, so loops are also killed with several items done since the last save.

    A kill is an exception in the test's process, a BaseException after which nothing of that run reaches a database.
    What the run had committed by then stays for the run that resumes. State that is kept in memory survives the kill,
    in module globals for example: reset it in `setup`, a function that is called before each run. Not seen are files,
    other caches, mails, threads and processes of the job, and database connections that Django does not know.

    Compared are the job's result, the jobs that it has enqueued, the entries of the cache and the rows of all models of
    the project: not the keys of new rows, and not what two runs without a kill differ in. `state`, called in the test
    after each round, takes the place of the rows. `ignore`: models ("shop.Order"), fields ("shop.Order.sent_at"),
    "result", "jobs" or "cache". `paid`: functions outside of steps that are to be called as often as without a kill.

    `kill_at`: numbers of places, from 1, instead of all. `max_kills`: of more places as many are taken, evenly spread,
    with the first and the last. Raises NotTestableError where the job cannot be judged.
    """
    __tracebackhide__ = True
    choices = Choices.of(task, args, kwargs or {}, state, setup, ignore, paid, kill_at, max_kills)
    with Rounds.begin(choices) as rounds:
        return rounds.report()
