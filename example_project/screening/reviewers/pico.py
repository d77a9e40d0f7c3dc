"""An offline reviewer that looks in each sentence for the parts of a trial, as a PICO form lists them.

The parts are people, an intervention, a comparison and a trial's design. It shares no list of words and no arithmetic
with the points reviewer, so the two can disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from example_project.screening.reviewers.interface import Assignment, Calls, Decision, Opinion
from example_project.screening.reviewers.parts import NOT_A_TRIAL, NOT_PEOPLE, PARTS
from example_project.screening.reviewers.tokens import most_of, pretended

SENTENCE_END = re.compile(r"(?<=[.;?!])\s+|\n")
TOO_MANY_ANIMALS = 3
CLEAR_DESIGN, CLEAR_INTERVENTION, REPEATED_INTERVENTION = 2, 2, 3  # sentences
SHOWN = ("people", "intervention", "comparison", "design")


@dataclass(frozen=True, slots=True)
class PicoReviewer:
    name: str = "pico"

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        return calls.make(lambda: pretended(read(assignment.text), assignment), most_of(assignment))


@dataclass(frozen=True, slots=True)
class Reading:
    """In how many sentences each part was found, and signs of another kind of paper."""

    counts: dict[str, int]
    quotes: dict[str, str]
    treats_people: bool  # people and intervention in one sentence
    animals: int
    other_kinds: int  # words of case reports, reviews, surveys

    def has(self, *parts: str) -> bool:
        return all(self.counts[part] for part in parts)


def read(text: str) -> Opinion:
    """The decision on `text`; the reason quotes the first words found of each part."""
    reading = _read_sentences(text)
    return Opinion(_decide(reading), _explain(reading))


def _read_sentences(text: str) -> Reading:
    sentences = [sentence for sentence in SENTENCE_END.split(text) if sentence]
    found = {part: [m for s in sentences if (m := pattern.search(s))] for part, pattern in PARTS.items()}
    return Reading(
        counts={part: len(matches) for part, matches in found.items()},
        quotes={part: matches[0].group() for part, matches in found.items() if matches},
        treats_people=any(PARTS["people"].search(s) and PARTS["intervention"].search(s) for s in sentences),
        animals=len(NOT_PEOPLE.findall(text)),
        other_kinds=len(NOT_A_TRIAL.findall(text)),
    )


def _decide(reading: Reading) -> Decision:
    if _is_not_about_people(reading):
        return Decision.EXCLUDE
    if _names_its_design(reading) or _describes_a_trial(reading):
        return Decision.INCLUDE
    return Decision.UNSURE if _might_be_a_trial(reading) else Decision.EXCLUDE


def _is_not_about_people(reading: Reading) -> bool:
    people = reading.counts["people"]
    return not people or reading.animals >= TOO_MANY_ANIMALS or reading.animals > people


def _names_its_design(reading: Reading) -> bool:
    """Two sentences name the design, or one does and the paper compares and is of no other kind."""
    named = reading.counts["design"]
    return named >= CLEAR_DESIGN or (
        named == 1 and reading.has("comparison", "outcome") and not reading.other_kinds
    )


def _describes_a_trial(reading: Reading) -> bool:
    """The design is not named, but counted people got an intervention in at least two sentences and were compared."""
    whole = reading.has("counted people", "comparison", "outcome") and reading.treats_people
    return whole and reading.counts["intervention"] >= CLEAR_INTERVENTION and not reading.other_kinds


def _might_be_a_trial(reading: Reading) -> bool:
    given = reading.treats_people and reading.counts["intervention"] >= REPEATED_INTERVENTION
    return not reading.other_kinds and (given or reading.has("design", "intervention"))


def _explain(reading: Reading) -> str:
    parts = [f"{part} “{reading.quotes[part]}”" for part in SHOWN if part in reading.quotes]
    missing = [part for part in SHOWN if part not in reading.quotes]
    text = "; ".join(parts) or "nothing of a trial"
    if missing:
        text += f"; no {', no '.join(missing)}"
    return text + (f"; {reading.animals} x animals or cells" if reading.animals else "")
