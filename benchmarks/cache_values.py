"""What caches hold: rendered HTML, JSON, and random bytes, which neither a compressor nor TOAST makes smaller."""

from __future__ import annotations

import json
import os
import random
import uuid
from collections.abc import Callable
from typing import Any

from django.utils.lorem_ipsum import sentence, words

ROW = """  <tr class="row{odd}" id="row-{number}">
    <td class="field-name"><a href="/orders/{number}/change/">{name}</a></td>
    <td class="field-description">{description}</td>
    <td class="field-updated nowrap">{days} days ago</td>
  </tr>
"""


def html(size: int) -> str:
    """Rows of a table, as a template renders them."""
    rows = ['<table class="table table-striped">\n']
    while sum(map(len, rows)) < size:
        number = random.randrange(10**6)
        days, name = random.randrange(2, 30), words(3, common=False)
        rows.append(ROW.format(odd=number % 2, number=number, name=name, description=sentence(), days=days))
    return "".join(rows)[:size]


def json_text(size: int) -> str:
    """The answer of an API."""
    items: list[dict[str, Any]] = []
    while len(text := json.dumps(items)) < size:
        items.append(
            {
                "id": random.randrange(10**6),
                "token": uuid.uuid4().hex,
                "title": words(4, common=False),
                "body": sentence(),
                "price": f"{random.randrange(10**5) / 100:.2f}",
                "is_active": random.random() < 0.5,
            }
        )
    return text[:size]


KINDS: dict[str, Callable[[int], Any]] = {"random bytes": os.urandom, "HTML": html, "JSON": json_text}
KINDS_FROM = 1024  # bytes; below that the kind makes no difference
