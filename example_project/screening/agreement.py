"""How much two reviewers agree, and how often they are right. Plain arithmetic over lists of decisions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


def percent_agreement(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """The share of equal pairs, 0 to 100; None without pairs."""
    return 100 * _observed(pairs) if pairs else None


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Agreement beyond chance, 1 at most (Cohen, 1960). None without pairs or without variety."""
    if not pairs:
        return None
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[kind] * second[kind] for kind in first) / len(pairs) ** 2
    return None if chance == 1 else (_observed(pairs) - chance) / (1 - chance)


def _observed(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    return sum(a == b for a, b in pairs) / len(pairs)


def precision_and_recall(chosen: Sequence[bool], labels: Sequence[bool]) -> tuple[float | None, float | None]:
    """Precision: the share of the chosen that are labelled. Recall: the share of the labelled that are chosen.

    Each is None when its divisor is 0.
    """
    hits = sum(c and label for c, label in zip(chosen, labels, strict=True))
    return _ratio(hits, sum(chosen)), _ratio(hits, sum(labels))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
