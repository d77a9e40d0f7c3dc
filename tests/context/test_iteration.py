from __future__ import annotations

from collections import UserList, deque

import pytest

from pgonly_django.context.iteration import items_from
from pgonly_django.queue.checkpoints import Position

LETTERS = "abcde"


@pytest.mark.parametrize("kind", [list, tuple, str, deque, UserList, iter, dict.fromkeys])
@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_items_of_any_kind_are_gone_through_from_a_position_on(kind, start):
    pairs = items_from(kind(LETTERS), Position(start), read=None)
    assert list(pairs) == [(letter, Position(done)) for done, letter in enumerate(LETTERS, 1) if done > start]
