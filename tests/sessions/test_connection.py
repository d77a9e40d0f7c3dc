"""The statements run on Django's connection, prepared where that is safe."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from benchmarks.servers import free_port
from pgonly_django.embedded import unprivileged
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions import connection as sessions_connection


@pytest.fixture
def key(db):
    session = SessionStore()
    session["a"] = 1
    session.save()
    return session.session_key


def prepared() -> list[str]:
    """What this very connection has prepared, asked without preparing anything."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [row[0] for row in cursor.fetchall()]


def load_often(key: str, times: int = 8) -> list[int]:
    return [SessionStore(key)["a"] for _ in range(times)]


@pytest.mark.django_db(transaction=True)
def test_a_statement_is_prepared_after_some_uses_and_nothing_of_djangos_is(key):
    connection.close()
    load_often(key, 3)
    assert prepared() == []
    load_often(key)
    assert len(prepared()) == 1
    assert "pgonly_session" in prepared()[0]
    assert connection.connection.prepare_threshold is None


def test_a_session_is_part_of_the_tests_own_transaction(key):
    assert load_often(key) == [1] * 8
    assert connection.in_atomic_block
    with psycopg.connect(**connection.get_connection_params()) as other:
        assert other.execute("SELECT count(*) FROM pgonly_session").fetchone() == (0,)


def test_whoever_watches_djangos_statements_sees_ours(key):
    seen = []

    def watch(execute, sql, params, many, context):
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch), CaptureQueriesContext(connection) as captured:
        load_often(key, 1)
    assert len(seen) == len(captured) == 1
    assert "pgonly_session" in seen[0]


@pytest.mark.django_db(transaction=True)
def test_a_load_on_a_dead_connection_is_tried_again_on_a_new_one(key):
    backend = connection.connection.info.backend_pid
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    assert load_often(key, 1) == [1]
    assert connection.connection.info.backend_pid != backend


@pytest.mark.django_db(transaction=True)
def test_in_a_transaction_a_dead_connection_is_an_error(key):
    from django.db import Error, transaction

    backend = connection.connection.info.backend_pid
    with pytest.raises(Error), transaction.atomic():
        load_often(key, 1)
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        load_often(key, 1)
    connection.close()


@pytest.fixture
def pooler(tmp_path):
    """The port of a PgBouncer that knows nothing of prepared statements, before the test database."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed")
    params, port = connection.get_connection_params(), free_port()
    known = {"dbname": params["dbname"], "user": params["user"]}
    known |= {name: str(params[name]) for name in ("host", "port", "password") if params.get(name)}
    target = " ".join(f"{name}={value}" for name, value in known.items())
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\npooled = {target}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\nmax_prepared_statements = 0\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pgbouncer refuses to run as root, so another account reads this
    process = subprocess.Popen([binary, "-q", str(configuration)], cwd="/", **unprivileged())
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, "pgbouncer did not start"
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.02)


@pytest.fixture
def through_the_pooler(key, pooler, monkeypatch):
    """Django's connection, led through the pooler for this test."""
    connection.close()
    sessions_connection._direct.clear()
    with monkeypatch.context() as changed:
        changed.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        changed.setitem(connection.settings_dict, "PORT", str(pooler))
        changed.setitem(connection.settings_dict, "NAME", "pooled")
        yield
        connection.close()
    sessions_connection._direct.clear()


@pytest.mark.django_db(transaction=True)
def test_behind_a_pooler_nothing_is_prepared(through_the_pooler, key):
    assert load_often(key, 20) == [1] * 20
    assert sessions_connection._direct == {"default": False}
    assert prepared() == []
