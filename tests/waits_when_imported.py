"""A module that takes its time: its import ends when somebody opens the gate."""

from __future__ import annotations

import asyncio

from pgonly_django import task
from tests.gate import GATE

GATE.reached.set()
GATE.opened.wait(20)


@task
def add_late(a):
    return a + 1


@task
async def add_late_async(a):
    await asyncio.sleep(0)
    return a + 1
