"""Tables that are not where they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgonly_django.conf import schema
from pgonly_django.tables import qualified

# For a test in which another schema on the search_path stands for another database.
needs_search_path = pytest.mark.skipif(bool(schema()), reason='PGONLY["SCHEMA"] leaves the search_path aside')


@contextmanager
def missing(execute: Callable[[str], Any], table: str) -> Iterator[None]:
    """As if the table was not migrated."""
    there = qualified(table)
    execute(f"ALTER TABLE {there} RENAME TO gone")
    try:
        yield
    finally:
        execute(f"ALTER TABLE {there.replace(table, 'gone')} RENAME TO {table}")
