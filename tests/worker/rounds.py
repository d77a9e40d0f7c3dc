"""Runs the duties of a worker by hand."""

from __future__ import annotations

from pgonly_django.duties import BUSY_SECONDS, Workplace
from pgonly_django.worker.housekeeper import Housekeeper

SOON = BUSY_SECONDS * 1.2  # at most, where a duty has found something to do


def a_round(database: str = "default", *kinds):
    """All duties, or those of these kinds, each until it rests."""
    Housekeeper(Workplace(database), kinds or None).run_once()


def run(kind, **attributes):
    """One duty, until it rests. Returns in how many seconds it comes again."""
    housekeeper = Housekeeper(Workplace("default"), [kind])
    (duty,) = housekeeper.duties
    vars(duty).update(attributes)
    try:
        seconds = duty.run()
        while duty.has_more:
            seconds = duty.run()
        return seconds
    except Exception as error:
        return duty.failed(error)
    finally:
        housekeeper._close()
