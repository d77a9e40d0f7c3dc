"""assert_resumable(): what a project's test calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    setup: str | Callable[[], Any] | None = None,
    kill_at: str | int | Sequence[int] = "saves",
    max_kills: int = 200,
    timeout: float = 60.0,
) -> ResumableReport:
    """Run the job of this call undisturbed, then kill it with SIGKILL at each of its saves and resume it. Raises
    NotResumableError where a resumed job ends in another state, or has paid for a step more often.

    A save is a step, a checkpoint or a position of iterate(); a job is also killed right before a checkpoint or a
    position is saved, and when its function has returned. All runs are processes of their own, on copies of the test
    database: mocks of the test do not reach them. `setup`, a function of a module, is called in each before the job.

    Compared are the job's result, the jobs that it has enqueued, and the rows of all models of the project: not the
    keys of new rows, and not what two undisturbed runs differ in. `state`, called in the test with the database as a
    run has left it, takes the place of the rows. `ignore`: models ("shop.Order"), fields ("shop.Order.sent_at"),
    "result" or "jobs". `paid`: functions outside of steps that are to be called as often as without a kill.

    `kill_at`: numbers of saves, from 1, instead of all. `max_kills`: of more saves as many are taken, evenly spread.
    `timeout`: seconds that one run may take. Raises NotTestableError where the job cannot be judged.
    """
    choices = Choices(
        task=task, args=args, kwargs=kwargs or {}, state=state, ignore=_listed("ignore", ignore),
        paid=_listed("paid", paid), setup=setup, kill_at=kill_at, max_kills=max_kills, timeout=timeout,
    )  # fmt: skip
    with Rounds.begin(choices) as rounds:
        return rounds.report()


def _listed(option: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{option} must be a list, such as [{given!r}].")
    return tuple(given)
