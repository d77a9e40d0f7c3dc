"""Django's signals of tasks, sent where somebody would notice: for a short job they cost more than its run."""

from __future__ import annotations

from django.dispatch import Signal

from pgonly_django.compat import tasks_logger

# Django connects one receiver of its own to each, which writes a log line.
OWN_RECEIVERS = 1


def is_heard(signal: Signal, level: int) -> bool:
    """Whether a receiver of the project's is connected, or Django's own would log at `level`."""
    return len(signal.receivers) > OWN_RECEIVERS or tasks_logger.isEnabledFor(level)
