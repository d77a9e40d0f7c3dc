from __future__ import annotations

import json
from hashlib import sha256

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from pgonly_django.conf import schema
from pgonly_django.tables import qualified

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


COLUMNS = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema IN (current_schema(), %s) AND data_type = %s
"""


def columns_of(kind: str) -> list[tuple[str, str]]:
    with connection.cursor() as cursor:
        cursor.execute(COLUMNS, [schema(), kind])
        return cursor.fetchall()


def test_the_row_knows_of_a_cookie_its_sha_256_and_nothing_else(client):
    client.force_login(get_user_model().objects.create_user("ada"))
    cookie = client.cookies["sessionid"].value
    with connection.cursor() as cursor:
        cursor.execute("SELECT key_hash FROM pgonly_session")
        assert [bytes(key_hash) for (key_hash,) in cursor.fetchall()] == [sha256(cookie.encode()).digest()]


def test_no_column_of_any_table_contains_a_cookie(client):
    client.force_login(get_user_model().objects.create_user("ada"))
    cookie = client.cookies["sessionid"].value
    binary, text = (
        columns_of("bytea"),
        columns_of("text") + columns_of("jsonb") + columns_of("character varying"),
    )
    assert ("pgonly_session", "key_hash") in binary
    assert ("pgonly_session", "data") in text
    with connection.cursor() as cursor:
        for table, column in binary:
            cursor.execute(
                f'SELECT count(*) FROM {qualified(table)} WHERE position(%s::bytea IN "{column}") > 0',
                [cookie.encode()],
            )
            assert cursor.fetchone() == (0,), f"{table}.{column}"
        for table, column in text:
            cursor.execute(
                f'SELECT count(*) FROM {qualified(table)} WHERE strpos("{column}"::text, %s) > 0', [cookie]
            )
            assert cursor.fetchone() == (0,), f"{table}.{column}"
