"""A job with every kind of wait, whose worker dies somewhere, ends as if it had not."""

from __future__ import annotations

import pytest

from tests.interleaving.flowing import Flowing


@pytest.mark.slow
def test_a_worker_may_die_at_each_statement_and_commit(explore):
    assert explore(Flowing, "work", "die") > 40
