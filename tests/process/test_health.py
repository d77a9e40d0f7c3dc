"""The health port and the heartbeat file of real `runworker` processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket

import pytest

from tests import jobs
from tests.waiting import wait_for
from tests.worker.health.test_server import free_port

pytestmark = [pytest.mark.process, pytest.mark.slow]


def ask(port, path, read=json.loads):
    """(status, facts), or None while nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, read(answer.read())
    except OSError:
        return None
    finally:
        connection.close()


def is_ready(port, processes):
    """All of them are there."""
    status, facts = ask(port, "/ready") or (None, {})
    return status == 200 and facts["workers"].get("ready", 0) == processes


def test_a_worker_says_how_it_is_from_its_start_to_its_end(workers, tmp_path):
    port, alive = free_port(), tmp_path / "alive"
    worker = workers.start(
        "--health-port",
        str(port),
        "--heartbeat-file",
        str(alive),
        "--grace-seconds",
        "30",
        "--verbosity",
        "2",
    )
    wait_for(lambda: is_ready(port, processes=1))
    assert f"http://0.0.0.0:{port}" in worker.output
    assert ask(port, "/live")[1]["workers"][0]["pid"] == worker.process.pid
    assert ask(port, "/busy") == (503, {"busy": False, "running": 0})
    assert alive.exists()

    # It ignores should_stop until the last second of the grace.
    jobs.pause.enqueue(60)
    wait_for(lambda: ask(port, "/busy") == (200, {"busy": True, "running": 1}))
    wait_for(lambda: "started" in worker.output)
    worker.send(signal.SIGTERM)
    stopping = {"ready": False, "reason": "Stopping.", "workers": {"stopping": 1}}
    wait_for(lambda: ask(port, "/ready") == (503, stopping))
    assert ask(port, "/live")[0] == 200
    assert ask(port, "/busy")[0] == 200
    worker.send(signal.SIGQUIT)
    assert worker.wait() == 0
    assert not alive.exists()
    assert ask(port, "/live") is None


@pytest.mark.server
def test_a_supervisor_answers_for_all_also_while_their_database_is_away(workers, own_server, tmp_path):
    port, alive = free_port(), tmp_path / "alive"
    flags = ["--processes", "2", "--health-port", str(port), "--heartbeat-file", str(alive)]
    worker = workers.start(*flags, ready=False, DATABASE_URL=own_server.url())
    wait_for(lambda: is_ready(port, processes=2))
    own_server.server.stop("immediate")
    away = {"ready": False, "reason": "PostgreSQL does not answer.", "workers": {"away": 2}}
    wait_for(lambda: ask(port, "/ready") == (503, away))
    assert ask(port, "/live")[0] == 200
    os.utime(alive, (0, 0))
    wait_for(lambda: alive.stat().st_mtime > 0)
    own_server.server.start()
    wait_for(lambda: is_ready(port, processes=2))
    assert ask(port, "/metrics", bytes)[1].count(b"\npgonly_worker_threads{") == 2
    own_server.enqueue_pauses(1, 60.0)
    wait_for(lambda: ask(port, "/busy") == (200, {"busy": True, "running": 1}))
    worker.kill()
    assert alive.exists()  # whoever looks at its time sees that it is old
    with socket.socket() as again:  # its children do not hold the port
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("0.0.0.0", port))


def test_clients_of_a_supervisor_keep_no_process_from_being_forked(workers):
    """It answers in threads, and a process with other threads is not forked."""
    port = free_port()
    flags = ["--processes", "2", "--max-jobs-per-process", "2", "--health-port", str(port)]
    worker = workers.start(*flags, ready=False)
    wait_for(lambda: is_ready(port, processes=2))
    with contextlib.ExitStack() as held:
        for number in range(6):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
            result = jobs.add.enqueue(number, 1)
            wait_for(lambda result=result: result.job.is_finished)
        wait_for(lambda: worker.output.count(", forked.") >= 4)
    assert "spawned" not in worker.output


def test_the_port_of_a_platform_is_taken_where_it_is_free(workers):
    """A port that a flag asks for is an error when it is taken; $PORT is not, since it is meant for a web server."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = workers.start("--health-port", str(port), ready=False)
        beside = workers.start(PORT=str(port))
        assert refused.wait() == 1
        assert f"CommandError: --health-port {port} cannot be opened on 0.0.0.0: Address" in refused.output
        assert f"No health port, though $PORT asks for one: --health-port {port} cannot be" in beside.output
        beside.kill()
    served = workers.start("--max-seconds", "60", PORT=str(port))
    wait_for(lambda: ask(port, "/ready"))
    assert "grace     15 s" in served.output  # a quarter of --max-seconds
    served.kill()
