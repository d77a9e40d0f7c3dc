from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import psycopg
import pytest

from pgonly_django.embedded import Server
from pgonly_django.exceptions import EmbeddedPostgresError
from tests import in_memory

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="pgonly-test-", dir=in_memory.folder()))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_the_data_outlives_the_server_and_is_found_again(folder):
    server = Server(folder / "pg")
    try:
        assert server.start()
        with psycopg.connect(server.url()) as connection:
            connection.execute("CREATE TABLE kept (id int)")
        assert not Server(folder / "pg").start(), "a second start finds the server running"
        server.stop()
        assert not server.is_running()
        server.start()
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    finally:
        server.stop("immediate")


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root is the server another account's")
def test_a_folder_closed_to_the_server_s_account_is_no_stopped_server(folder):
    server = Server(folder / "pg")
    server.start()
    try:
        folder.chmod(0o700)
        with pytest.raises(EmbeddedPostgresError, match="Check the permissions"):
            server.stop()
    finally:
        folder.chmod(0o755)
        server.stop()
    assert not server.is_running()


def test_a_path_too_long_for_a_socket_gets_a_short_one(folder):
    server = Server(folder / ("long" * 30) / "pg")
    assert len(str(server.socket_directory)) < 60
    assert server.socket_directory == Server(server.data).socket_directory


def test_a_taken_port_ends_with_what_to_do(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(folder / "pg", port=taken.getsockname()[1])
        with pytest.raises(EmbeddedPostgresError, match=r"Free the port or socket, or name a server"):
            server.start()
