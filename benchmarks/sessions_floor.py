"""The least SQL that a session engine needs: psycopg, one logged table, prepared statements, whole sessions."""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

TABLE = """
CREATE TABLE IF NOT EXISTS floor_session (key text PRIMARY KEY, data jsonb NOT NULL, expires_at timestamptz NOT NULL)
"""
LOAD = "SELECT data FROM floor_session WHERE key = %s AND expires_at > statement_timestamp()"
INSERT = "INSERT INTO floor_session VALUES (%s, %s, statement_timestamp() + interval '14 days')"
UPDATE = "UPDATE floor_session SET data = %s, expires_at = statement_timestamp() + interval '14 days' WHERE key = %s"


class Floor:
    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(TABLE)

    def load(self, key: str) -> Any:
        row = self.connection.execute(LOAD, (key,), prepare=True).fetchone()
        assert row is not None
        return row[0]

    def new(self, session: dict[str, Any]) -> str:
        key = secrets.token_hex(16)
        self.connection.execute(INSERT, (key, Jsonb(session)), prepare=True)
        return key

    def save(self, key: str, session: dict[str, Any]) -> None:
        self.connection.execute(UPDATE, (Jsonb(session), key), prepare=True)

    def close(self) -> None:
        self.connection.close()
