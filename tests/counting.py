"""Counts calls of Python functions: what code costs, in a number that does not depend on the machine."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from contextlib import contextmanager

from pgonly_django import events, instruments


@contextmanager
def counted_calls():
    """The calls in this thread by "file:function", without those of Sentry: once some test has started it, what it has
    put around Django's functions, such as Task.enqueue, stays."""
    counts = Counter()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and not (_is_sentrys(frame) or _is_sentrys(frame.f_back)):
            counts[f"{code.co_filename.rpartition('/')[2]}:{code.co_name}"] += 1

    with _nothing_listens(), _nothing_is_collected():
        sys.setprofile(note)
        try:
            yield counts
        finally:
            sys.setprofile(None)


def _is_sentrys(frame):
    return frame is not None and "sentry_sdk" in frame.f_code.co_filename


@contextmanager
def _nothing_is_collected():
    """The garbage collector calls the finalizers of what earlier tests have left, such as connections, at any time."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


@contextmanager
def _nothing_listens():
    """Other tests of the same process may have set up integrations, which stay."""
    points = [point for point in vars(instruments).values() if isinstance(point, instruments.Hook)]
    before = [point.functions for point in points]
    for point in points:
        point.functions = ()
    listeners, events._listeners = events._listeners, []
    try:
        yield
    finally:
        events._listeners = listeners
        for point, functions in zip(points, before, strict=True):
            point.functions = functions
