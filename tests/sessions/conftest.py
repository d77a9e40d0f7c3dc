from __future__ import annotations

import pytest

from tests.sessions.rows import encrypt


@pytest.fixture(autouse=True)
def _this_engine(settings):
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    settings.ROOT_URLCONF = "tests.sessions.urls"


@pytest.fixture
def encrypted(settings):
    encrypt(settings)
