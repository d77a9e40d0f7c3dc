from __future__ import annotations

import pytest

from pgonly_django.admin.formats import NO_BREAK
from tests.admin.conftest import page_of


@pytest.fixture
def page(admin_client):
    """The page of a job, as HTML with plain spaces."""
    return lambda job: admin_client.get(page_of(job)).text.replace(NO_BREAK, " ")
