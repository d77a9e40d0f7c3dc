"""The demo without a web server: screen one project, kill the worker on the way with --kill-at, and answer the
questions that a person would be asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from example_project.screening.deciding import decide
from example_project.screening.models import Paper, Verdict
from example_project.screening.models.paper import Outcome
from example_project.screening.reviewers import Decision
from example_project.screening.summary import summarise
from example_project.screening.tasks import start_screening
from pgonly_django.models import Job, State, Wait

if TYPE_CHECKING:
    from example_project.screening.demo.children import Children
    from example_project.screening.demo.terminal import Terminal
    from example_project.screening.models import Project

POLL_SECONDS = 0.05
STALLED_SECONDS = 300.0  # several times the longest wait for a busy chat API


class ScreeningError(Exception):
    """The screening did not finish as expected; the message says why."""


class Headless:
    """At `kill_at` percent of the papers the worker gets SIGKILL, and another worker starts."""

    def __init__(self, project: Project, children: Children, terminal: Terminal, kill_at: int | None) -> None:
        self.project, self.children, self.terminal, self.kill_at = project, children, terminal, kill_at
        self.total = project.papers.count()
        self.queue = (
            f"screening-{project.pk}"  # one for this run: its worker claims no other job of this database
        )
        self.killed_at: int | None = None
        self._seen, self._seen_at = -1, time.monotonic()

    def run(self) -> dict[str, Any]:
        """Returns the summary. On ScreeningError, ChildDied or Ctrl-C it cancels the job first."""
        self.children.start_worker(self.queue)
        begin = time.monotonic()
        start_screening(self.project, queue=self.queue)
        try:
            self._watch()
            summary = self._summary(time.monotonic() - begin)
            return summary | {"decided": self._decide_the_disputed()}
        except BaseException:
            self.project.cancel()
            raise

    def _watch(self) -> None:
        while not self._is_finished():
            self.children.check()
            done = self._done()
            self.terminal.show(done)
            if self._is_time_to_kill(done):
                self._kill(done)
            self._check_stalled(done)
            time.sleep(POLL_SECONDS)
        self.terminal.show(self._done())
        self.terminal.close()

    def _decide_the_disputed(self) -> int:
        """Enqueue a job for each disputed paper, and answer what it asks. Returns how many papers were decided."""
        start_screening(self.project, queue=self.queue, by_paper=True)
        disputed = Paper.objects.of(self.project).of_outcome(Outcome.DISPUTED).select_related("project")
        asked, answered = {paper.question_key: paper for paper in disputed}, 0
        self.terminal.say(
            f"{len(asked)} papers are disputed: a job for each waits until a person decides. "
            "Nobody is here, so the demo answers by itself: include."
        )
        while not self._is_finished():
            self.children.check()
            waited_for = Wait.objects.open().filter(key__in=asked).values_list("key", flat=True)
            for key in asked.keys() & set(waited_for):
                decide(asked[key], Decision.INCLUDE, "the demo")
                answered += 1
            self._check_stalled(self.total + answered)
            time.sleep(POLL_SECONDS)
        return answered

    def _check_stalled(self, done: int) -> None:
        """Raises ScreeningError when no paper was finished for STALLED_SECONDS."""
        now = time.monotonic()
        if done > self._seen:
            self._seen, self._seen_at = done, now
        elif now - self._seen_at > STALLED_SECONDS:
            raise ScreeningError(f"No paper was finished for {STALLED_SECONDS:g} s, {done} are done.")

    def _is_finished(self) -> bool:
        """Raises ScreeningError when the job failed or was cancelled."""
        job = self._job()
        if not job.is_finished:
            return False
        if job.state != State.SUCCEEDED:
            last = job.errors[-1] if job.errors else {}
            why = last.get("message") or last.get("reason") or "no reason was recorded"
            raise ScreeningError(f"The screening is {job.state}: {why}")
        return True

    def _job(self) -> Job:
        job = self.project.job
        if job is None:
            raise ScreeningError("The screening's job is not in the database any more.")
        return job

    def _done(self) -> int:
        """The number of papers that have verdicts. One statement writes both verdicts of a paper."""
        return Verdict.objects.of(self.project).count() // 2

    def _is_time_to_kill(self, done: int) -> bool:
        return self.kill_at is not None and self.killed_at is None and 100 * done >= self.kill_at * self.total

    def _kill(self, done: int) -> None:
        self.children.kill("worker")
        self.killed_at = self._done()
        pid = self.children.start_worker(self.queue)
        self.terminal.say(
            f"Killed the worker (SIGKILL) with {done} papers done; another has started (pid {pid})."
        )

    def _summary(self, seconds: float) -> dict[str, Any]:
        """Raises ScreeningError when a verdict is missing or the worker was not killed as asked."""
        if self.kill_at is not None and self.killed_at is None:
            raise ScreeningError(
                "The screening finished before the worker could be killed: use a larger --delay."
            )
        summary = summarise(self.project) | {"killed_at": self.killed_at, "seconds": round(seconds, 2)}
        if summary["verdicts"] != 2 * self.total:
            raise ScreeningError(f"Expected {2 * self.total} verdicts, found {summary['verdicts']}.")
        return {"project": self.project.pk, "name": self.project.name} | summary


def as_text(summary: dict[str, Any]) -> str:
    """The summary as lines of text."""
    lines = [
        ("papers", str(summary["papers"])),
        ("verdicts", f"{summary['verdicts']} (digest {summary['verdicts_digest'][:12]})"),
        ("outcomes", ", ".join(f"{count} {name}" for name, count in summary["outcomes"].items() if count)),
        ("agreement", f"{summary['agreement_percent']} %, Cohen's kappa {_shown(summary['cohens_kappa'])}"),
    ]
    for name, scores in (summary["quality"] or {}).items():
        lines.append((name, f"precision {_shown(scores['precision'])}, recall {_shown(scores['recall'])}"))
    calls, needed = summary["reviewer_calls"], 2 * summary["papers"]
    repeated = (
        f"; without a stored answer at the kill, so made again: {calls - needed}" if calls > needed else ""
    )
    lines.append(("reviewer calls", f"{calls} (2 per paper: {needed}{repeated})"))
    if summary["killed_at"] is not None:
        resumed = (
            f"worker killed with {summary['killed_at']} papers done, resumed from {summary['resumed_from']}"
        )
        lines.append(("resumed", resumed))
    lines.append(
        ("decided", f"{summary['decided']} disputed papers by the demo itself; their jobs waited for it")
    )
    lines.append(("seconds", str(summary["seconds"])))
    return "\n".join(f"  {label:<15} {fact}" for label, fact in lines)


def _shown(value: float | None) -> str:
    return "not defined" if value is None else str(value)
