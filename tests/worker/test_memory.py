from __future__ import annotations

import os

import pytest

from pgonly_django.worker.memory import memory_of, own_rss_mb, resident_bytes


def test_the_memory_of_a_process_is_known_and_of_none_that_is_not_there():
    memory = memory_of(os.getpid())
    assert 0 < memory.own <= memory.pss <= memory.rss
    assert own_rss_mb() == pytest.approx(resident_bytes(os.getpid()) / 2**20, rel=0.1)
    assert memory_of(2**22 + 1) is None
