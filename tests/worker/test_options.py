from __future__ import annotations

import pytest

from pgonly_django.exceptions import OptionError
from pgonly_django.worker.options import WorkerOptions, from_environment, platform_port


@pytest.mark.parametrize("name", ["a\udcff", "a\0b"])
def test_names_that_postgres_cannot_store_are_refused(name):
    with pytest.raises(OptionError, match="--name must be text in UTF-8, got 'a"):
        WorkerOptions(name=name)
    with pytest.raises(OptionError, match="--queues must be names in UTF-8, got"):
        WorkerOptions(queues=("good", name))
    assert WorkerOptions(name="schön", queues=("läuft",)).name == "schön"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_health_port_is_a_port(port):
    with pytest.raises(OptionError, match=f"--health-port must be from 0 to 65535, got {port}."):
        WorkerOptions(health_port=port)


def test_a_host_and_a_file_that_are_empty_are_refused():
    with pytest.raises(OptionError, match="--health-host must be an address, such as 0"):
        WorkerOptions(health_host="")
    with pytest.raises(OptionError, match="--heartbeat-file must be the path of a file, got ''"):
        WorkerOptions(heartbeat_file="")


def test_the_health_options_have_variables():
    environ = {
        "PGONLY_WORKER_HEALTH_PORT": "0",
        "PGONLY_WORKER_HEALTH_HOST": "::",
        "PGONLY_WORKER_HEARTBEAT_FILE": "/run/alive",
    }
    assert from_environment(environ) == {
        "health_port": 0,
        "health_host": "::",
        "heartbeat_file": "/run/alive",
    }
    with pytest.raises(
        OptionError, match="PGONLY_WORKER_HEALTH_PORT must be a port, or 0 for none, got 'tcp:"
    ):
        from_environment({"PGONLY_WORKER_HEALTH_PORT": "tcp://10.0.0.1:80"})


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080", 8080), ("", None), ("0", None), ("65536", None), ("tcp://10.0.0.1:80", None), ("\u0663", None),
     ("9" * 5000, None)],
)  # fmt: skip
def test_the_port_of_the_platform_counts_where_it_is_a_port(text, port):
    assert platform_port({"PORT": text}) == port
    assert platform_port({}) is None
