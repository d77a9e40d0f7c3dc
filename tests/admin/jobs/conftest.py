from __future__ import annotations

import pytest

from tests.admin.conftest import page_of


@pytest.fixture
def page(admin_client):
    """The page of a job, as HTML."""
    return lambda job: admin_client.get(page_of(job)).text
