"""Masks values whose names say that they are secret, for people who look at stored data. Sessions and jobs have one
rule. Their patterns differ: PGONLY["SESSION_MASKED_KEYS"] and PGONLY["MASKED_ARGUMENTS"].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any

MASK = "••••••"
DEEPER = "…"
LEVELS_SHOWN = 50


def masked(value: Any, patterns: Sequence[str], levels: int = LEVELS_SHOWN) -> Any:
    """Returns `value` with masks for values under secret keys, at any depth, and for all deeper than `levels`."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    if not levels:
        return DEEPER
    shown: Any
    # Loops: in Python 3.11 a comprehension would take a second frame for each level.
    if isinstance(value, dict):
        shown = {}
        for key, inner in value.items():
            shown[key] = MASK if is_secret(key, patterns) else masked(inner, patterns, levels - 1)
        return shown
    shown = []
    for inner in value:
        shown.append(masked(inner, patterns, levels - 1))
    return shown


def unmasked(shown: Any, masked_value: Any, stored: Any) -> Any:
    """Returns `shown`, which a person has edited, with the `stored` value in the place of each mask that stands as in
    `masked_value`. Raises ValueError for a mask that stands elsewhere, or in an entry of a list that may have moved."""
    if isinstance(shown, str) and shown == MASK:
        if masked_value != MASK:
            raise ValueError(f"{MASK} stands where nothing was masked. Write the value itself.")
        return stored
    if isinstance(shown, dict):
        return {key: unmasked(inner, *_at(key, masked_value, stored)) for key, inner in shown.items()}
    if isinstance(shown, list):
        result = [unmasked(inner, *_at(place, masked_value, stored)) for place, inner in enumerate(shown)]
        if isinstance(masked_value, list) and shown != masked_value:
            _refuse_moved(shown, masked_value)
        return result
    return shown


def _refuse_moved(shown: list[Any], masked_value: list[Any]) -> None:
    """Raises ValueError for a list with an entry added or removed: then no place says which entry it was."""
    is_same_length, gone = len(shown) == len(masked_value), masked_value[len(shown) :]
    pairs = enumerate(zip(shown, masked_value, strict=False))
    first_change = next(
        (place for place, (new, old) in pairs if new != old), min(len(shown), len(masked_value))
    )
    for place, inner in enumerate(shown):
        is_before = place < first_change and inner not in gone
        is_edited = is_same_length and (inner == masked_value[place] or inner not in masked_value)
        if _has_mask(inner) and not (is_before or is_edited):
            raise ValueError(f"{MASK} stands in a list whose entries have moved. Write the value itself.")


def _has_mask(shown: Any) -> bool:
    if isinstance(shown, dict):
        return any(map(_has_mask, shown.values()))
    return any(map(_has_mask, shown)) if isinstance(shown, list) else bool(shown == MASK)


def _at(place: Any, masked_value: Any, stored: Any) -> tuple[Any, Any]:
    """Returns both at the same place: a key of an object, or a number in a list."""
    if isinstance(masked_value, dict) and isinstance(place, str) and place in masked_value:
        return masked_value[place], stored[place]
    if isinstance(masked_value, list) and isinstance(place, int) and place < len(masked_value):
        return masked_value[place], stored[place]
    return None, None


def is_secret(name: object, patterns: Sequence[str]) -> bool:
    """Returns whether one of the shell patterns fits `name`. Case, "_" and "-" make no difference: "*api_key*" also
    fits "X-Api-Key" and "apiKey"."""
    name = str(name).lower()
    exact, joined = _compiled(tuple(patterns))
    return bool(exact.match(name) or joined.match(_joined(name)))


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Returns one expression for all patterns: a result may have 100,000 keys."""
    lowered = [pattern.lower() for pattern in patterns]
    return _any_of(lowered), _any_of([_joined(pattern) for pattern in lowered])


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def _joined(name: str) -> str:
    return name.replace("_", "").replace("-", "")
