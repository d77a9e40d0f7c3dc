"""An offline reviewer that reads sentence by sentence for the parts of a trial, as one does with a PICO form:

people who were studied, something given to them, something to compare it with, and a design that is a
trial's. It shares no list of words and no arithmetic with the points reviewer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from example_project.screening.reviewers.opinion import Assignment, Calls, Decision, Opinion
from example_project.screening.reviewers.parts import NOT_A_TRIAL, NOT_PEOPLE, PARTS

SENTENCE_END = re.compile(r"(?<=[.;?!])\s+|\n")
ANIMALS_TOO_MANY = 3
DESIGN_NAMED_CLEARLY, GIVEN_CLEARLY, GIVEN_AGAIN_AND_AGAIN = 2, 2, 3  # sentences
SHOWN = ("people", "intervention", "comparison", "design")


@dataclass(frozen=True, slots=True)
class PicoReviewer:
    name: str = "pico"

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        return calls.make(lambda: read(assignment.text))


@dataclass(frozen=True, slots=True)
class Reading:
    """In how many sentences each part was found, and what else was seen."""

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
    if _is_about_no_people(reading):
        return Decision.EXCLUDE
    if _says_trial(reading) or _reads_like_one(reading):
        return Decision.INCLUDE
    return Decision.UNSURE if _might_be_one(reading) else Decision.EXCLUDE


def _is_about_no_people(reading: Reading) -> bool:
    people = reading.counts["people"]
    return not people or reading.animals >= ANIMALS_TOO_MANY or reading.animals > people


def _says_trial(reading: Reading) -> bool:
    """The design is named twice, or once beside a comparison in a paper of no other kind."""
    named = reading.counts["design"]
    return named >= DESIGN_NAMED_CLEARLY or (
        named == 1 and reading.has("comparison", "outcome") and not reading.other_kinds
    )


def _reads_like_one(reading: Reading) -> bool:
    """No design is named, but counted people were given something, more than in passing, and compared."""
    whole = reading.has("counted people", "comparison", "outcome") and reading.treats_people
    return whole and reading.counts["intervention"] >= GIVEN_CLEARLY and not reading.other_kinds


def _might_be_one(reading: Reading) -> bool:
    given = reading.treats_people and reading.counts["intervention"] >= GIVEN_AGAIN_AND_AGAIN
    return not reading.other_kinds and (given or reading.has("design", "intervention"))


def _explain(reading: Reading) -> str:
    parts = [f"{part} “{reading.quotes[part]}”" for part in SHOWN if part in reading.quotes]
    missing = [part for part in SHOWN if part not in reading.quotes]
    text = "; ".join(parts) or "nothing of a trial"
    if missing:
        text += f"; no {', no '.join(missing)}"
    return text + (f"; {reading.animals} x animals or cells" if reading.animals else "")
