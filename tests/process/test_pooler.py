from __future__ import annotations

import pytest
from django.db import connection

from tests import jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.process


def test_behind_a_pooler_the_worker_says_so_once_and_polls(workers, marks, pooler):
    settings = connection.settings_dict
    workers.url = f"postgres://{settings['USER']}@127.0.0.1:{pooler}/{settings['NAME']}"
    worker = workers.start("--threads", "3")
    wait_for(lambda: "LISTEN does not work here" in worker.output, what="the self-test")
    results = [jobs.add.enqueue(i, 1) for i in range(60)]
    assert [result.wait(30).return_value for result in results] == [i + 1 for i in range(60)]
    long_one = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks(), what="the start")
    long_one.cancel()
    assert long_one.wait(15).job.state == "cancelled"
    assert worker.output.count("LISTEN does not work here") == 1
    assert "ERROR" not in worker.output
    worker.send(15)
    assert worker.wait() == 0
