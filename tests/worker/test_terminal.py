"""What a worker shows without LOGGING, with it, and of Django's own lines of tasks."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from django.utils.log import RequireDebugTrue

from pgonly_django.compat import tasks_logger
from pgonly_django.current_job import current_job
from pgonly_django.events import emit
from pgonly_django.worker.terminal import Terminal, logging_to

OURS = logging.getLogger("pgonly_django")
NAMES = ("pgonly_django", "pgonly_django.worker", "pgonly_django.cache", tasks_logger.name)


class Keeping(logging.Handler):
    def __init__(self, level=logging.NOTSET):
        super().__init__(level)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextmanager
def project(monkeypatch, *, ours=(), django=(), ours_level=logging.NOTSET, django_level=logging.INFO):
    """Loggers as LOGGING of a project would make them: `ours` and `django` are handlers."""
    parent = logging.Logger("the project's")  # noqa: LOG001 - for this test alone
    parent.handlers, parent.level = list(ours), logging.INFO
    above = logging.Logger("django")  # noqa: LOG001 - likewise
    above.handlers, above.level, above.parent = list(django), django_level, parent
    for name in NAMES:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "disabled", False)
        logger.setLevel(logging.NOTSET)
    monkeypatch.setattr(OURS, "parent", parent)
    monkeypatch.setattr(tasks_logger, "parent", above)
    OURS.setLevel(ours_level)
    try:
        yield
    finally:
        monkeypatch.undo()
        for name in NAMES:
            logging.getLogger(name).setLevel(logging.NOTSET)


@contextmanager
def shown(**options):
    """What stands on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with logging_to(Terminal(out, err, **options)):
        yield out, err


def lines(stream):
    return [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (0, ["WARNING w"]),
        (1, ["INFO i", "WARNING w"]),
        (2, ["DEBUG d", "INFO i", "WARNING w"]),
        (3, ["DEBUG d", "INFO i", "WARNING w", "DEBUG c"]),
    ],
)
def test_verbosity_chooses_what_is_shown_without_logging(monkeypatch, verbosity, expected):
    with project(monkeypatch), shown(verbosity=verbosity) as (out, err):
        emit("worker.x", "d", level=logging.DEBUG)
        emit("worker.x", "i")
        emit("worker.x", "w", level=logging.WARNING)
        logging.getLogger("pgonly_django.cache").debug("c")
    assert lines(out) == expected
    assert err.getvalue() == ""


def test_where_the_project_has_handlers_nothing_is_shown_beside_them(monkeypatch):
    theirs = Keeping()
    with project(monkeypatch, ours=[theirs]), shown(verbosity=3) as (out, _):
        emit("worker.x", "i")
        emit("worker.x", "d", level=logging.DEBUG)
    assert theirs.messages == ["i"]
    assert out.getvalue() == ""


def test_a_warning_of_a_job_without_a_handler_says_which_job_it_is(monkeypatch):
    run = SimpleNamespace(job=SimpleNamespace(id="7", task="shop.tasks.sell", attempt=1), worker="w")
    orphan = logging.Logger("shop")  # noqa: LOG001 - one that has no parent with handlers of pytest
    with project(monkeypatch), shown() as (out, err):
        token = current_job.set(run)
        orphan.warning("sold out")
        current_job.reset(token)
        orphan.warning("closing")
    assert out.getvalue() == ""
    assert lines(err) == ["WARNING shop.tasks.sell 7: sold out", "WARNING closing"]


def test_a_level_has_its_colour_where_there_are_any(monkeypatch):
    with project(monkeypatch), shown(colors={logging.WARNING: lambda name: f"<{name}>"}) as (out, _):
        emit("worker.x", "w", level=logging.WARNING)
    assert lines(out) == ["<WARNING> w"]


def say_as_django():
    tasks_logger.info("Task state=RUNNING")
    tasks_logger.error("Task state=FAILED")


def test_lines_of_django_go_only_where_ours_do_not(monkeypatch):
    """As Django makes it: a console, and the mail to ADMINS. And a handler for all on the root."""
    console, mail, all_lines = logging.StreamHandler(sys.stderr), Keeping(logging.ERROR), Keeping()
    monkeypatch.setattr(console, "emit", all_lines.messages.append)
    with project(monkeypatch, ours=[all_lines], django=[console, mail]), shown():
        say_as_django()
        assert not tasks_logger.isEnabledFor(logging.DEBUG)
    # The console is no terminal of ours here, so that Django's lines stay there.
    assert mail.messages == ["Task state=FAILED"]
    assert len(all_lines.messages) == 2


def test_on_the_terminal_django_is_silent_and_costs_nothing(monkeypatch):
    console, mail = logging.StreamHandler(sys.stderr), Keeping(logging.ERROR)
    said = []
    monkeypatch.setattr(console, "emit", said.append)
    with project(monkeypatch, django=[console, mail]), shown():
        say_as_django()
        assert not tasks_logger.isEnabledFor(logging.INFO)
    assert said == []
    assert mail.messages == ["Task state=FAILED"]


def test_without_any_other_handler_django_s_logger_is_off(monkeypatch):
    with project(monkeypatch), shown():
        assert not tasks_logger.isEnabledFor(logging.CRITICAL)


def test_a_project_that_has_set_up_django_s_logger_keeps_its_lines(monkeypatch):
    theirs = Keeping()
    with project(monkeypatch):
        tasks_logger.addHandler(theirs)
        with shown():
            say_as_django()
    assert len(theirs.messages) == 2


def test_a_project_that_has_turned_our_lines_off_sees_only_the_errors_of_django_s(monkeypatch):
    theirs, mail = Keeping(), Keeping()
    with project(monkeypatch, ours=[theirs], django=[mail], ours_level=logging.WARNING), shown():
        say_as_django()
        emit("worker.x", "ours")
        assert not tasks_logger.isEnabledFor(logging.INFO)
    assert theirs.messages == []
    assert mail.messages == ["Task state=FAILED"]


def test_a_level_that_the_project_has_set_without_a_handler_holds(monkeypatch):
    with project(monkeypatch, ours_level=logging.WARNING), shown() as (out, _):
        emit("worker.x", "i")
        emit("worker.x", "w", level=logging.WARNING)
    assert lines(out) == ["WARNING w"]


def test_a_handler_whose_filter_drops_every_line_costs_nothing(monkeypatch, settings):
    """As Django's console does where DEBUG is off."""
    console = Keeping(logging.INFO)
    console.addFilter(RequireDebugTrue())
    for settings.DEBUG in (False, True):
        with project(monkeypatch, ours=[Keeping()], django=[console]), shown():
            assert tasks_logger.isEnabledFor(logging.INFO) == settings.DEBUG


@pytest.mark.parametrize(
    "takes",
    [
        lambda record: record.levelno >= logging.ERROR,
        lambda record: record.exc_info is not None,
        lambda record: record.status == "FAILED",
    ],
)
def test_a_filter_of_the_project_gets_the_lines_of_django_and_no_others(monkeypatch, takes):
    errors_only = Keeping(logging.INFO)
    errors_only.addFilter(takes)
    with project(monkeypatch, ours=[Keeping()], django=[errors_only]), shown():
        tasks_logger.info("Task state=RUNNING", extra={"status": "RUNNING"})
        tasks_logger.error("Task state=FAILED", exc_info=ValueError("no"), extra={"status": "FAILED"})
    assert errors_only.messages == ["Task state=FAILED"]


def test_a_root_above_info_shows_no_line_of_each_task_either(monkeypatch):
    """Django's own loggers are at INFO whatever the root is."""
    theirs = Keeping()
    with project(monkeypatch, ours=[theirs]):
        OURS.parent.setLevel(logging.WARNING)
        with shown():
            say_as_django()
    assert theirs.messages == []
