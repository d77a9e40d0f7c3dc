from __future__ import annotations

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse

from pgonly_django.worker.tick import running
from pgonly_django.worker.tick.views import token
from tests.waiting import wait_for


@pytest.fixture
def tick(transactional_db, settings):
    """Request a tick under WSGI: tick(seconds=20). Returns the answer's JSON."""

    def run(seconds=20.0):
        settings.PGONLY = {**settings.PGONLY, "TICK_SECONDS": seconds}
        response = Client().get(reverse("pgonly:tick", args=[token()]))
        assert response.status_code == 200, response.content
        return response.json()

    yield run
    wait_for(lambda: running._going is None, what="the tick to end")
    wait_for(lambda: not any(thread.is_alive() for thread in running._left), what="its jobs to return")
    connections.close_all()
