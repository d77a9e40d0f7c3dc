"""django-health-check's own checks of the cache and the database."""

from __future__ import annotations

import pytest
from django.urls import path
from health_check.views import HealthCheckView

pytestmark = pytest.mark.slow

urlpatterns = [
    path("health/", HealthCheckView.as_view(checks=["health_check.Cache", "health_check.Database"]))
]


@pytest.mark.urls(__name__)
def test_its_page_is_healthy(transactional_db, client):
    answer = client.get("/health/", headers={"accept": "application/json"})
    assert (answer.status_code, set(answer.json().values())) == (200, {"OK"})
