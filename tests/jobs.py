"""The tasks that the tests enqueue."""

from __future__ import annotations

from pgonly_django import task


@task
def add(a, b=1):
    return a + b


@task(takes_context=True, max_attempts=2)
def count_to(context, n):
    total = 0
    for i in context.iterate(range(n)):
        total += context.step(f"square {i}", pow, i, 2)
    return total
