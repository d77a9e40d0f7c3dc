from __future__ import annotations

import json

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

pytestmark = pytest.mark.django_db


def stored_texts() -> list[str]:
    """Every column of every row, as a thief with a dump would read it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(s) FROM pgonly_session s")
        rows = [json.loads(row[0]) for row in cursor.fetchall()]
    texts = []
    for row in rows:
        for value in row.values():
            texts += [value] if isinstance(value, str) else [str(value)]
            texts += value.values() if isinstance(value, dict) else []
    return texts + [text.removeprefix("\\x") for text in texts] + [text.strip('"') for text in texts]


def test_no_stored_column_is_a_usable_cookie(client, settings):
    user = get_user_model().objects.create_user("ada", password="secret")
    client.force_login(user)
    assert client.get("/whoami/").content == b"ada"
    cookie = client.cookies["sessionid"].value
    texts = stored_texts()
    assert len(texts) > 10
    for text in texts:
        assert text != cookie
        client.cookies["sessionid"] = text
        assert client.get("/whoami/").content == b""


def test_the_cookie_looks_as_djangos_does(client):
    client.force_login(get_user_model().objects.create_user("ada"))
    cookie = client.cookies["sessionid"].value
    assert len(cookie) == 32
    assert cookie.isalnum()
    assert cookie == cookie.lower()
