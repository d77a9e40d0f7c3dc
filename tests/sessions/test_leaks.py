from __future__ import annotations

import json
from hashlib import sha256

import pytest
from django.contrib.auth import get_user_model

from pgonly_django.conf import schema
from pgonly_django.tables import qualified
from tests.sql import sql, value

pytestmark = pytest.mark.django_db


def stored_texts() -> list[str]:
    """Every column of every row, as a thief with a dump would read it."""
    texts = []
    for row in (json.loads(row) for (row,) in sql("SELECT to_jsonb(s) FROM pgonly_session s")):
        for field in row.values():
            texts += [field] if isinstance(field, str) else [str(field)]
            texts += field.values() if isinstance(field, dict) else []
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
WHERE table_schema IN (current_schema(), %s) AND data_type = ANY (%s)
"""


def test_the_row_knows_of_a_cookie_its_sha_256_and_nothing_else(client):
    client.force_login(get_user_model().objects.create_user("ada"))
    cookie = client.cookies["sessionid"].value
    assert bytes(value("SELECT key_hash FROM pgonly_session")) == sha256(cookie.encode()).digest()


def test_no_column_of_any_table_contains_a_cookie(client):
    client.force_login(get_user_model().objects.create_user("ada"))
    cookie = client.cookies["sessionid"].value
    binary = sql(COLUMNS, schema(), ["bytea"])
    text = sql(COLUMNS, schema(), ["text", "jsonb", "character varying"])
    assert ("pgonly_session", "key_hash") in binary
    assert ("pgonly_session", "data") in text
    for table, column in binary:
        query = f'SELECT FROM {qualified(table)} WHERE position(%s::bytea IN "{column}") > 0'
        assert not sql(query, cookie.encode()), f"{table}.{column}"
    for table, column in text:
        query = f'SELECT FROM {qualified(table)} WHERE strpos("{column}"::text, %s) > 0'
        assert not sql(query, cookie), f"{table}.{column}"
