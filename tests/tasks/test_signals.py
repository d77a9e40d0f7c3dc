from __future__ import annotations

import logging

import pytest

from pgonly_django.compat import task_finished, tasks_logger
from pgonly_django.tasks.backend import has_receivers


@pytest.fixture
def quiet(caplog):
    """Nobody listens and nothing below a warning is logged."""
    with caplog.at_level(logging.WARNING, tasks_logger.name):
        yield caplog


def test_a_signal_that_only_django_would_log_is_not_heard_while_it_would_not(quiet):
    assert not has_receivers(task_finished, logging.INFO)
    assert has_receivers(task_finished, logging.ERROR)
    with quiet.at_level(logging.INFO, tasks_logger.name):
        assert has_receivers(task_finished, logging.INFO)


def test_a_receiver_of_the_project_s_hears_whatever_is_logged(quiet):
    def receiver(**facts): ...

    task_finished.connect(receiver)
    try:
        assert has_receivers(task_finished, logging.INFO)
    finally:
        task_finished.disconnect(receiver)
    assert not has_receivers(task_finished, logging.INFO)
