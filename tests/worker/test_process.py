from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from pgonly_django import embedded
from pgonly_django.database import wake_urls
from pgonly_django.limits.renewal import renewal
from pgonly_django.worker import process


def test_slots_are_given_back_last_and_a_log_that_hangs_leaves_time_for_it(monkeypatch):
    done, never = [], threading.Event()

    def end(code):
        done.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(wake_urls, "flush", lambda seconds: done.append("wake"))
    monkeypatch.setattr(logging, "shutdown", lambda: (done.append("log"), never.wait(30)))
    monkeypatch.setattr(renewal, "end", lambda: (time.sleep(0.1), done.append("slots")))
    monkeypatch.setattr(embedded, "stop_unused", lambda: done.append("server"))
    with pytest.raises(SystemExit):
        process.leave(7, by=time.monotonic() + 2.0)
    never.set()
    assert done == ["wake", "log", "slots", "server", 7]
