"""Django's signals of tasks are sent only where somebody listens: for a short job, sending costs more than its run."""

from __future__ import annotations

from django.dispatch import Signal

from pgonly_django.compat import tasks_logger

# Django connects one receiver of its own to each signal. It writes a log line.
OWN_RECEIVERS = 1


def has_receivers(signal: Signal, level: int) -> bool:
    """Whether the project has connected a receiver, or Django's own would log at `level`."""
    return len(signal.receivers) > OWN_RECEIVERS or tasks_logger.isEnabledFor(level)
