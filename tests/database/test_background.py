from __future__ import annotations

import threading

from pgonly_django.database.background import Background


def test_a_background_job_that_fails_keeps_no_other_from_being_done(caplog):
    done = threading.Event()
    background = Background("cache")
    background.add(lambda: 1 / 0, 10)
    background.add(done.set, 10)
    assert done.wait(10)
    assert "ZeroDivisionError" in caplog.text
