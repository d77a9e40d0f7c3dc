from __future__ import annotations

import re

SEPARATOR = re.compile(r"\s+\|\s+")


def any_of(alternatives: str) -> re.Pattern[str]:
    """A pattern for whole words in any case. `alternatives` are small patterns with " | " between them."""
    return re.compile(rf"\b(?:{'|'.join(SEPARATOR.split(alternatives.strip()))})\b", re.IGNORECASE)
