"""What the tests of the commands share."""

from __future__ import annotations

import io
import sys

import pytest
from django.core.management import call_command


@pytest.fixture
def jobs(capsys):
    """`jobs("list", ...)`: what it printed."""

    def call(*arguments):
        call_command("pgonly_jobs", *map(str, arguments))
        return capsys.readouterr().out

    return call


@pytest.fixture
def terminal(monkeypatch):
    """`terminal("y")`: a person at a terminal, who answers so."""

    def answers(text):
        stream = io.StringIO(f"{text}\n")
        stream.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stream)

    return answers
