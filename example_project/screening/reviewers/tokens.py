"""How many tokens a call takes: an estimate before it, and what the offline reviewers pretend behind it."""

from __future__ import annotations

from example_project.screening.reviewers.interface import Assignment, Opinion, Usage

CHARACTERS_A_TOKEN = 4  # of English
INSTRUCTIONS_TOKENS = 150
MOST_TOKENS_OUT = 200


def most_of(assignment: Assignment) -> Usage:
    """What a call about this paper takes at most, as a rule."""
    asked = f"{assignment.question}{assignment.criteria}{assignment.text}"
    return Usage(INSTRUCTIONS_TOKENS + tokens_in(asked) * 5 // 4, MOST_TOKENS_OUT)


def pretended(opinion: Opinion, assignment: Assignment) -> tuple[Opinion, Usage]:
    """An offline opinion, with the tokens that a model would have taken for it."""
    asked = f"{assignment.question}{assignment.criteria}{assignment.text}"
    return opinion, Usage(INSTRUCTIONS_TOKENS + tokens_in(asked), tokens_in(opinion.reason))


def tokens_in(text: str) -> int:
    return len(text) // CHARACTERS_A_TOKEN + 1
