from __future__ import annotations

import time

from pgonly_django.worker.agenda import REFUSED_SECONDS, Agenda
from pgonly_django.worker.ear import Ear
from pgonly_django.worker.options import WorkerOptions


def test_what_the_database_refused_is_not_asked_for_again_at_once():
    agenda = Agenda(WorkerOptions(), Ear("default", listens=True))
    assert agenda.look_is_due(time.monotonic(), has_slot=True)
    assert agenda.promotion_is_due(time.monotonic())
    now = time.monotonic()
    agenda.refused()
    assert not agenda.look_is_due(now, has_slot=True)
    assert not agenda.promotion_is_due(now)
    later = now + REFUSED_SECONDS + 1.0
    assert agenda.look_is_due(later, has_slot=True)
    assert agenda.promotion_is_due(later)
