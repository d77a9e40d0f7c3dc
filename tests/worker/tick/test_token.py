from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import settings as our_settings
from pgonly_django.worker.tick.views import is_valid_header, is_valid_token, token

SECRET = "a secret of twenty-two"


@pytest.fixture
def secret(settings):
    settings.PGONLY = {**settings.PGONLY, "TICK_SECRET": SECRET}


def test_a_token_holds_until_the_key_changes(settings):
    before = token()
    assert is_valid_token(before)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another", [settings.SECRET_KEY]
    assert is_valid_token(before)
    settings.SECRET_KEY_FALLBACKS = []
    assert not is_valid_token(before)


def test_another_secret_takes_the_url_back(settings):
    before = token()
    settings.PGONLY = {**settings.PGONLY, "TICK_SECRET": SECRET}
    assert not is_valid_token(before)
    assert is_valid_token(token())


@pytest.mark.parametrize("given", ["", "x", "ü", "a:b", ":", " ", "tick :x"])
def test_what_is_no_token_is_refused(given):
    assert not is_valid_token(given)


def test_the_header_holds_the_secret_or_the_token(secret):
    assert is_valid_header(f"Bearer {SECRET}")
    assert is_valid_header(f"bearer {SECRET}")
    assert is_valid_header(f"Bearer {token()}")
    for wrong in ("", "Bearer", "Bearer ", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer ü"):
        assert not is_valid_header(wrong)


def test_without_a_secret_an_empty_one_is_refused():
    assert not is_valid_header("Bearer ")
    assert not is_valid_header("Bearer")


def test_a_short_secret_is_refused_and_not_shown(settings):
    settings.PGONLY = {"TICK_SECRET": "hunter2"}
    with pytest.raises(ImproperlyConfigured) as refused:
        our_settings()
    assert str(refused.value) == 'PGONLY["TICK_SECRET"] must have at least 16 characters, got 7.'


@pytest.mark.parametrize("value", [0, "25", None])
def test_the_seconds_are_validated(settings, value):
    settings.PGONLY = {"TICK_SECONDS": value}
    with pytest.raises(ImproperlyConfigured, match="TICK_SECONDS"):
        our_settings()


@pytest.mark.parametrize("key", ["TICK_SECRET", "METRICS_TOKEN"])
def test_a_secret_of_the_wrong_type_is_not_shown(settings, key):
    settings.PGONLY = {key: b"a real secret of bytes"}
    with pytest.raises(ImproperlyConfigured) as refused:
        our_settings()
    assert str(refused.value) == f'PGONLY["{key}"] must be a str, got bytes.'
