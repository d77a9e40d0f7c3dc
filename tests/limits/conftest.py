from __future__ import annotations

import pytest

from pgonly_django.limits import declarations
from pgonly_django.limits.renewal import renewal


@pytest.fixture
def limits(settings, transactional_db):
    """Declares limiters: limits(deepseek={"concurrent": 5})."""

    def declare(**limiters):
        settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters}
        declarations._declared.clear()

    yield declare
    renewal.forget()
