"""What the server does for live.js, which fetches a page again while somebody looks at it."""

from __future__ import annotations

import pytest

from pgonly_django.models import Queue, State
from tests.admin.conftest import make_job

pytestmark = pytest.mark.django_db
HOME = "/admin/pgonly_django/"
REFRESH = {"X-Pgonly-Live": "1"}


@pytest.mark.parametrize("page", ["", "job/", "job/{}/change/", "queue/", "queue/ai/change/"])
def test_a_refresh_leaves_messages_to_the_window_that_has_asked_for_them(admin_client, page):
    job = make_job(State.FAILED)
    Queue.objects.create(name="ai")
    admin_client.post(f"{HOME}job/{job.pk}/operate/retry/")
    address = HOME + page.format(job.pk)
    assert "Retry: 1 job." not in admin_client.get(address, headers=REFRESH).text
    assert "Retry: 1 job." in admin_client.get(address).text


def test_a_refresh_adds_no_message(admin_client):
    address = f"{HOME}session/?q=a+b+c+d+e+f"
    for _ in range(3):
        admin_client.get(address, headers=REFRESH)
    assert admin_client.get(address).text.count("Search for five words at most.") == 1
