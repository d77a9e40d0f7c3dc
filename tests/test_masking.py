from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from pgonly_django.conf import MASKED_ARGUMENTS
from pgonly_django.masking import DEEPER, MASK, is_secret, masked, unmasked

SECRETS = [
    "password", "PASSWORD", "new_passwd", "passphrase", "pwd", "db_pwd", "client_secret", "secrets",
    "aws_credentials", "Authorization", "proxy-authorization", "bearer", "Set-Cookie", "token", "access_token",
    "accessToken", "csrf-token", "api_key", "API-KEY", "apiKey", "X-Api-Key", "private_key", "privateKey",
    "secret_access_key", "signing_key",
]  # fmt: skip
OPEN = ["key", "keys", "max_tokens", "tokens_in", "tokenizer", "author", "email", "monkey", "", 7, None]


@pytest.mark.parametrize("name", SECRETS)
def test_usual_names_of_secrets_are_secret(name):
    assert is_secret(name, MASKED_ARGUMENTS)


@pytest.mark.parametrize("name", OPEN)
def test_names_that_look_alike_are_not(name):
    assert not is_secret(name, MASKED_ARGUMENTS)


def test_secrets_are_masked_at_any_depth_and_the_rest_stays():
    value = {"a": [{"token": {"x": 1}}, 2, "token"], "b": {"c": {"password": None, "d": 0}}}
    shown = {"a": [{"token": MASK}, 2, "token"], "b": {"c": {"password": MASK, "d": 0}}}
    assert masked(value, MASKED_ARGUMENTS) == shown


def test_what_is_deeper_than_shown_is_left_out():
    assert masked([[["token"]]], ("*",), levels=2) == [[DEEPER]]


def test_a_pattern_with_a_set_of_letters_still_fits():
    assert is_secret("pin-7", ("pin-[0-9]",))
    assert not is_secret("pin-x", ("pin-[0-9]",))


patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.sampled_from([MASK, "x", ""]),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["token", "password", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@patiently
@given(JSON)
def test_what_is_sent_back_as_it_was_shown_is_what_was_stored(value):
    shown = masked(value, MASKED_ARGUMENTS)
    assert unmasked(shown, shown, value) == value


TWO = [{"name": "a", "token": "secret of a"}, {"name": "b", "token": "secret of b"}]
A, B = masked(TWO, MASKED_ARGUMENTS)


@pytest.mark.parametrize("edited", [[B], [B, A], [{"name": "new"}, A, B], [{"name": "new"}, B, A], [A, A]])
def test_the_secret_of_one_entry_of_a_list_never_becomes_that_of_another(edited):
    with pytest.raises(ValueError, match="Write the value itself"):
        unmasked(edited, [A, B], TWO)


def test_of_masked_entries_that_look_alike_none_may_go():
    with pytest.raises(ValueError, match="entries have moved"):
        unmasked([MASK], [MASK, MASK], ["secret of a", "secret of b"])


@pytest.mark.parametrize(
    ("edited", "stored"),
    [
        ([A], TWO[:1]),
        ([A, B, 3], [*TWO, 3]),
        ([A, {"name": "c", "token": MASK}], [TWO[0], {"name": "c", "token": "secret of b"}]),
        ([{"name": "x", "token": "new"}, B], [{"name": "x", "token": "new"}, TWO[1]]),
    ],
)
def test_an_entry_that_stays_in_its_place_keeps_its_secret(edited, stored):
    assert unmasked(edited, [A, B], TWO) == stored


@patiently
@given(JSON, JSON)
def test_a_mask_never_takes_the_place_of_a_value(edited, value):
    """Whatever is sent: each mask in it is what was stored there, or it is refused."""
    shown = masked(value, MASKED_ARGUMENTS)
    try:
        result = unmasked(edited, shown, value)
    except ValueError:
        return
    if MASK not in str(value):
        assert MASK not in str(result)
