"""Tasks with values that JSONB cannot hold."""

from __future__ import annotations

from pgonly_django import task
from tests.jobs import nest


@task
def return_nul():
    return "a\x00b"


@task
def return_nan():
    return float("nan")


@task(max_attempts=1)
def raise_nul():
    raise ValueError("bad \x00 text \ud800")


@task(max_attempts=1)
def return_nested(levels):
    return nest(levels)


@task(takes_context=True, max_attempts=1)
def step_nested(context, levels):
    context.step("nest", nest, levels)


@task(takes_context=True, max_attempts=1)
def save_nested(context, levels):
    context.save_checkpoint(nest(levels))


@task(takes_context=True, max_attempts=1)
def report_nested(context, levels):
    context.progress(nest(levels))


@task(takes_context=True, max_attempts=1)
def report_an_object(context):
    context.progress(object())
