"""pgonly_encrypt_sessions brings stored sessions to the setting."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from pgonly_django.management.commands.pgonly_encrypt_sessions import reencrypt_sessions
from pgonly_django.models import Session
from tests.sessions.rows import NEW, OLD, again, column, encrypt, stored

pytestmark = pytest.mark.django_db


def rewrite() -> str:
    out = StringIO()
    call_command("pgonly_encrypt_sessions", stdout=out)
    return out.getvalue().strip()


def test_the_command_encrypts_what_is_there_and_decrypts_it_again(settings):
    sessions = [stored(a=number, **{"odd\x00": number}) for number in range(3)]
    encrypt(settings)
    assert rewrite() == "3 sessions encrypted"
    assert column().count("sealed") == 6
    assert rewrite() == "0 sessions encrypted"
    encrypt(settings, on=False)
    assert rewrite() == "3 sessions decrypted"
    assert "sealed" not in column()
    assert [again(session)["a"] for session in sessions] == [0, 1, 2]


@pytest.mark.usefixtures("encrypted")
def test_the_command_makes_the_old_key_superfluous(settings):
    settings.SECRET_KEY = OLD
    session = stored(a=1)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    assert rewrite() == "1 sessions encrypted"
    settings.SECRET_KEY_FALLBACKS = []
    assert again(session)["a"] == 1


@pytest.mark.usefixtures("encrypted")
def test_the_command_leaves_what_it_cannot_read(settings):
    settings.SECRET_KEY = OLD
    session = stored(a=1)
    settings.SECRET_KEY = NEW
    assert rewrite() == "0 sessions encrypted"
    settings.SECRET_KEY = OLD
    assert again(session)["a"] == 1


def test_the_command_does_not_undo_what_a_request_writes_meanwhile(settings):
    session = stored(a="old", b="old")
    encrypt(settings)
    changed = []

    def change_first(execute, sql, params, many, context):
        if "data ||" in sql and not changed:
            changed.append(True)
            parallel = again(session)
            parallel["a"] = "new"
            parallel.save()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(change_first):
        assert rewrite() == "1 sessions encrypted"
    assert changed
    assert dict(again(session).items()) == {"a": "new", "b": "old"}
    assert column().count("sealed") == 2


def test_a_session_that_gets_another_key_meanwhile_is_rewritten_too(settings):
    sessions = [stored(number=number) for number in range(3)]
    encrypt(settings)
    rewriting = reencrypt_sessions(batch=1)
    next(rewriting)
    first, *_, last = Session.objects.order_by("pk")
    moved = "00" * 32  # to the front, which has been passed
    Session.objects.filter(pk=last.pk).update(key_hash=moved)
    assert list(rewriting)[-1] == 3
    assert all("sealed" in data["number"] for data in Session.objects.values_list("data", flat=True))
    assert first.pk > moved
    assert len(sessions) == 3
