"""An offline reviewer that adds up points: each cue in the text counts once, for or against a trial."""

from __future__ import annotations

from dataclasses import dataclass

from example_project.screening.reviewers.cues import CUES
from example_project.screening.reviewers.interface import Assignment, Calls, Decision, Opinion
from example_project.screening.reviewers.tokens import most_of, pretended

INCLUDE_FROM, EXCLUDE_BELOW = 4, 3
CUES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class PointsReviewer:
    name: str = "points"

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        return calls.make(lambda: pretended(read(assignment.text), assignment), most_of(assignment))


def read(text: str) -> Opinion:
    """The decision of `text`'s cues; the reason names those with the most points, for or against."""
    found = [cue for cue in CUES if cue.pattern.search(text)]
    points = sum(cue.points for cue in found)
    strongest = sorted(found, key=lambda cue: -abs(cue.points))[:CUES_SHOWN]
    named = ", ".join(f"{cue.name} {cue.points:+d}" for cue in strongest) or "no cue at all"
    return Opinion(_decide(points), f"{points:+d} points: {named}")


def _decide(points: int) -> Decision:
    if points >= INCLUDE_FROM:
        return Decision.INCLUDE
    return Decision.EXCLUDE if points < EXCLUDE_BELOW else Decision.UNSURE
