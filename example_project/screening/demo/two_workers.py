"""The demo of the limits: two projects on two workers. One reviewer is overloaded for a moment, which both heed; the
first project reaches its budget, is held, and goes on once the budget is raised."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.conf import settings

from example_project.screening.demo.headless import POLL_SECONDS, STALLED_SECONDS, ScreeningError
from example_project.screening.models import ReviewerCall, Verdict
from example_project.screening.status import held_because, money, shown, status
from example_project.screening.summary import summarise
from example_project.screening.tasks import start_screening
from pgonly_django.models import Limiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from example_project.screening.demo.children import Children
    from example_project.screening.demo.terminal import Terminal
    from example_project.screening.models import Project

TIMES = 4  # so much more than the first budget is the raised one
HELD_SECONDS = 2.0  # how long the demo looks at the held project before it raises the budget
UNDER_WAY = timedelta(seconds=0.2)  # a call that had its turn just before the 429


class TwoWorkers:
    """Each project has a worker to itself, so that two processes share the limiters of the two reviewers."""

    def __init__(self, projects: Sequence[Project], children: Children, terminal: Terminal) -> None:
        self.projects, self.children, self.terminal = projects, children, terminal
        self.total = sum(project.papers.count() for project in projects)
        self.held: dict[str, Any] | None = (
            None  # how the first project stood when its budget was first used up
        )
        self._held_since: float | None = None
        self._is_cooling = False
        self._seen, self._seen_at = -1, time.monotonic()

    def run(self) -> dict[str, Any]:
        """Returns the summary. On ScreeningError, ChildDied or Ctrl-C it cancels the jobs first."""
        begin = time.monotonic()
        for number, project in enumerate(self.projects, start=1):
            self.children.start_worker(f"screening-{project.pk}", f"worker-{number}")
            start_screening(project, queue=f"screening-{project.pk}")
        try:
            self._watch()
        except BaseException:
            for project in self.projects:
                project.cancel()
            raise
        return self._summary(time.monotonic() - begin)

    def _watch(self) -> None:
        while {status(project).state for project in self.projects} != {"succeeded"}:
            self.children.check()
            done = sum(Verdict.objects.of(project).count() // 2 for project in self.projects)
            self.terminal.show(done)
            self._look_for_failure()
            self._look_at_the_limiter()
            self._look_at_the_budget()
            self._check_stalled(done)
            time.sleep(POLL_SECONDS)
        self.terminal.show(self.total)
        self.terminal.close()

    def _look_for_failure(self) -> None:
        for project in self.projects:
            if (state := status(project).state) in ("failed", "cancelled", "held"):
                raise ScreeningError(f"The screening of {project} is {state}.")

    def _look_at_the_limiter(self) -> None:
        cooling = Limiter.objects.filter(name=self._reviewer, blocked_until__gt=datetime.now().astimezone())
        if not self._is_cooling and cooling.exists():
            self._is_cooling = True
            seconds = settings.SCREENING_BUSY_SECONDS
            self.terminal.say(f"{self._reviewer} answered 429: no worker asks it for {seconds:g} s.")

    def _look_at_the_budget(self) -> None:
        """While the first project is held: raise its budget after a moment, as a person would on its page."""
        project, now = self.projects[0], time.monotonic()
        if status(project).state != "unpaid":
            return
        if self._held_since is None:
            self._held_since = now
            papers, spent = status(project).done, money(project).spent
            self.held = self.held or {"papers": papers, "spent_usd": float(spent)}
            self.terminal.say(f"{project} is held with {papers} papers done. {held_because(project)}")
        elif now - self._held_since >= HELD_SECONDS:
            self._held_since, usd = None, money(project).cap * TIMES
            project.raise_budget(usd)
            self.terminal.say(f"Its budget is raised to {shown(usd)}: it goes on.")

    def _check_stalled(self, done: int) -> None:
        """Raises ScreeningError when no paper was finished for STALLED_SECONDS."""
        now = time.monotonic()
        if done > self._seen:
            self._seen, self._seen_at = done, now
        elif now - self._seen_at > STALLED_SECONDS:
            raise ScreeningError(f"No paper was finished for {STALLED_SECONDS:g} s, {done} are done.")

    @property
    def _reviewer(self) -> str:
        return str(self.projects[0].reviewers[0])

    def _summary(self, seconds: float) -> dict[str, Any]:
        summaries = [
            {
                "project": project.pk,
                "name": project.name,
                **summarise(project),
                "cap_usd": float(money(project).cap),
            }
            for project in self.projects
        ]
        if len({summary["verdicts_digest"] for summary in summaries}) != 1:
            raise ScreeningError("The two projects have different verdicts on the same papers.")
        held = self.held and {**self.held, "raised_to_usd": summaries[0]["cap_usd"]}
        return {
            "projects": summaries,
            "cooled_down": self._cooled_down(),
            "held": held,
            "seconds": round(seconds, 2),
        }

    def _cooled_down(self) -> dict[str, Any] | None:
        """What followed the 429: how many calls either worker began before the time was over."""
        ours = ReviewerCall.objects.filter(paper__project__in=self.projects, reviewer=self._reviewer)
        busy = ours.filter(outcome="BusyError").first()
        if busy is None or busy.finished_at is None:
            return None
        until = busy.finished_at + timedelta(seconds=settings.SCREENING_BUSY_SECONDS)
        meanwhile = ours.filter(started_at__gt=busy.finished_at + UNDER_WAY, started_at__lt=until)
        after = ours.filter(started_at__gte=until).order_by().values("paper__project").distinct()
        return {
            "reviewer": self._reviewer,
            "seconds": settings.SCREENING_BUSY_SECONDS,
            "calls_meanwhile": meanwhile.count(),
            "workers_after": after.count(),
        }


def as_text(summary: dict[str, Any]) -> str:
    """The summary as lines of text."""
    lines = []
    for project in summary["projects"]:
        outcomes = ", ".join(f"{count} {name}" for name, count in project["outcomes"].items() if count)
        spent = f"{_dollars(project['spent_usd'])} of {_dollars(project['cap_usd'])}"
        lines += [
            ("project", f"{project['project']}: {project['papers']} papers, {outcomes}"),
            ("  spent", f"{spent}, {project['reviewer_calls']} calls"),
        ]
    if cooled := summary["cooled_down"]:
        calls, when = cooled["calls_meanwhile"], f"in the {cooled['seconds']:g} s after its 429"
        fact = f"{calls} calls to {cooled['reviewer']} {when}, then by {cooled['workers_after']} workers"
        lines.append(("cooled down", fact))
    if held := summary["held"]:
        fact = f"with {held['papers']} papers done and {_dollars(held['spent_usd'])} spent"
        lines.append(("held", f"{fact}; resumed with {_dollars(held['raised_to_usd'])}"))
    else:
        lines.append(("held", "never: the budget was enough"))
    digest = summary["projects"][0]["verdicts_digest"][:12]
    lines += [("verdicts", f"the same in both (digest {digest})"), ("seconds", str(summary["seconds"]))]
    return "\n".join(f"  {label:<15} {fact}" for label, fact in lines)


def _dollars(usd: float) -> str:
    return shown(Decimal(str(usd)))
