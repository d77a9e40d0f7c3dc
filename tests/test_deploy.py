"""The files of deploy/: what they call exists, and the times in them fit together."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from configparser import ConfigParser
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from pgonly_django.management.commands import runworker
from pgonly_django.worker.health.health import PATHS, Health
from tests import pooler
from tests.children import database_url
from tests.guards import refuse
from tests.waiting import wait_for
from tests.worker.health.statuses import seen, status
from tests.worker.health.test_server import free_port, in_thread

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
AFTER_THE_GRACE_SECONDS = (
    10  # docs/how-to/deploy.md#several-processes: what has not ended 7 s after the grace is killed
)


def unit():
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "pgonly-worker.service")
    return {**parser["Unit"], **parser["Service"], **parser["Install"]}


def load_yaml(name):
    yaml = pytest.importorskip("yaml")
    (found,) = yaml.safe_load_all((DEPLOY / name).read_text())
    return found


def procfile():
    return dict(line.split(": ", 1) for line in (DEPLOY / "Procfile").read_text().splitlines())


def dockerfile():
    """By instruction, its last text."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    return dict(line.split(" ", 1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line))


def pod():
    return load_yaml("kubernetes.yaml")["spec"]["template"]["spec"]


def container():
    (only,) = pod()["containers"]
    return only


COMMANDS = {
    "pgonly-worker.service": lambda: shlex.split(unit()["ExecStart"]),
    "Procfile": lambda: shlex.split(procfile()["worker"]),
    "Dockerfile": lambda: json.loads(dockerfile()["CMD"]),
    "kubernetes.yaml": lambda: container()["command"] + container()["args"],
}


def options_of(file):
    """The WorkerOptions that its command makes. Fails for a flag that there is not."""
    python, manage, command, *flags = COMMANDS[file]()
    assert (Path(python).name, manage, command) == ("python", "manage.py", "runworker")
    parser = runworker.Command().create_parser("manage.py", "runworker")
    given, unknown = parser.parse_known_args(flags)
    refuse(
        [f"deploy/{file}: runworker has no {' '.join(unknown)}"] if unknown else [],
        "Correct the command in that file. The flags are those of pgonly_django/management/commands/runworker.py.",
    )
    return runworker._options(vars(given), owns_process=True)


@pytest.mark.parametrize("file", COMMANDS)
def test_the_command_starts_a_worker_with_flags_that_exist(file):
    assert options_of(file).processes == 2


def grace_of_compose():
    return int(load_yaml("compose.yaml")["services"]["worker"]["stop_grace_period"][:-1])


@pytest.mark.parametrize(
    ("file", "command", "seconds"),
    [
        ("pgonly-worker.service", "pgonly-worker.service", lambda: int(unit()["TimeoutStopSec"])),
        ("kubernetes.yaml", "kubernetes.yaml", lambda: pod()["terminationGracePeriodSeconds"] - hook_seconds()),
        ("compose.yaml", "Dockerfile", grace_of_compose),
        ("Procfile", "Procfile", lambda: 30),  # Heroku
    ],
)  # fmt: skip
def test_the_platform_waits_longer_than_the_grace(file, command, seconds):
    waits, needed = seconds(), options_of(command).grace_seconds + AFTER_THE_GRACE_SECONDS
    refuse(
        [f"deploy/{file}: the platform kills after {waits:g} s; a worker needs {needed:g} s"]
        * (waits < needed),
        "Raise the time in that file (TimeoutStopSec, stop_grace_period, terminationGracePeriodSeconds less preStop), "
        "or lower --grace-seconds of its command.",
    )


def hook():
    return container()["lifecycle"]["preStop"]["exec"]["command"]


def hook_seconds():
    """At most: each probe waits 2 s where nothing answers, and a second passes after each."""
    (count,) = re.findall(r"seq (\d+)", hook()[-1])
    return int(count)


def test_probes_ask_for_paths_that_exist_on_the_port_that_is_opened():
    options = options_of("kubernetes.yaml")
    (port,) = container()["ports"]
    assert port["containerPort"] == options.health_port
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container()[kind]
        path, known = probe["httpGet"]["path"], PATHS
        refuse(
            [f"deploy/kubernetes.yaml: {kind} asks for {path}"] * (path not in known),
            f"The health port has {', '.join(known)}: pgonly_django/worker/health/health.py.",
        )
        assert probe["httpGet"]["port"] == port["name"]
    annotations = load_yaml("kubernetes.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in PATHS
    assert annotations["prometheus.io/port"] == str(options.health_port)
    assert (
        container()["livenessProbe"]["httpGet"]["path"] != "/ready"
    )  # a database that is away restarts nobody


def test_the_memory_of_a_pod_holds_all_its_processes():
    options, limit = options_of("kubernetes.yaml"), container()["resources"]["limits"]["memory"]
    has, needs = int(limit.removesuffix("Mi")), (options.processes + 1) * options.max_memory_mb
    refuse(
        [f"deploy/kubernetes.yaml: the pod may take {has} MB, its processes and their supervisor {needs} MB"]
        * (has <= needs),
        "Raise limits.memory there, or lower --processes or --max-memory-mb.",
    )


def test_the_pre_stop_hook_waits_while_jobs_run():
    """The hook as it stands in the manifest, but for its port and its python."""
    port, running = free_port(), 1
    command, *rest = hook()
    script = rest[-1].replace(":8080/", f":{port}/").replace("python -c", f"{shlex.quote(sys.executable)} -c")
    asked = threading.Event()

    def statuses():
        asked.set()
        return seen(status(running=running))

    with in_thread(Health("127.0.0.1", port)) as health:
        health.statuses = statuses
        process = subprocess.Popen([command, *rest[:-1], script], stderr=subprocess.DEVNULL)
        assert asked.wait(20)
        assert process.poll() is None
        running = 0
        assert process.wait(20) == 0


def test_the_health_check_of_the_image_sees_an_old_file(tmp_path):
    alive = tmp_path / "alive"
    command = dockerfile()["HEALTHCHECK"].partition("CMD ")[2]
    check = json.loads(command.replace(options_of("Dockerfile").heartbeat_file, str(alive)))
    assert str(alive) in check[-1]

    def code():
        return subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode

    assert code() == 1
    alive.touch()
    assert code() == 0
    before = time.time() - 150
    os.utime(alive, (before, before))
    assert code() == 1


def test_kubernetes_can_tell_that_the_image_s_user_is_not_root():
    assert int(dockerfile()["USER"]) == container()["securityContext"]["runAsUser"] > 0


def test_the_migrations_run_from_the_image_of_the_workers_with_its_secrets():
    job = load_yaml("kubernetes-migrate.yaml")["spec"]["template"]["spec"]
    (migrate,) = job["containers"]
    assert migrate["command"][:3] == ["python", "manage.py", "migrate"]
    same = ("image", "envFrom", "securityContext")
    assert [migrate[name] for name in same] == [container()[name] for name in same]


def test_the_services_of_compose_wait_for_each_other():
    services = load_yaml("compose.yaml")["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    assert "command" not in services["worker"]  # that of the image
    for name in ("migrate", "web"):
        assert services[name]["healthcheck"] == {"disable": True}  # the image's asks for a worker's file


def test_the_unit_tells_systemd_how_it_goes():
    options = unit()
    assert options["Type"] == "notify"
    assert options["KillMode"] == "mixed"
    assert int(options["WatchdogSec"]) > 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    """With a program, a folder and a user that there are here."""
    text = (DEPLOY / "pgonly-worker.service").read_text()
    changes = {
        "/srv/shop/.venv/bin/python": sys.executable,
        "WorkingDirectory=/srv/shop": f"WorkingDirectory={ROOT}",
        "User=shop": f"User={pwd.getpwuid(os.getuid()).pw_name}",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "pgonly-worker.service"
    path.write_text(text)
    command = ["systemd-analyze", "verify", "--recursive-errors=no", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in (ended.stdout + ended.stderr).splitlines() if "pgonly-worker" in line]
    assert (ended.returncode, ours) == (0, [])


LINTERS = {
    "Dockerfile": ["hadolint"],
    "compose.yaml": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "kubernetes.yaml": ["kubernetes-validate", "--strict"],
    "kubernetes-migrate.yaml": ["kubernetes-validate", "--strict"],
}


@pytest.mark.parametrize("name", LINTERS)
def test_a_linter_finds_nothing_wrong(name):
    """hadolint for the Dockerfile, and the schemas of Compose and Kubernetes."""
    program, *flags = LINTERS[name]
    path = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{program} is not installed")
    ended = subprocess.run(
        [path, *flags, str(DEPLOY / name)], capture_output=True, text=True, timeout=120, check=False
    )
    refuse(
        (ended.stdout + ended.stderr).splitlines() if ended.returncode else [],
        f"{program} says this of deploy/{name}: correct the file.",
    )


@pytest.mark.process
@pytest.mark.django_db(transaction=True)
def test_a_runner_of_procfiles_starts_and_stops_the_workers(tmp_path):
    """honcho, which reads the Procfile as Heroku does."""
    pytest.importorskip("honcho")
    here = {
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "tests.process.worker_settings",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": str(free_port()),
    }
    log, files = tmp_path / "log", ["-f", str(DEPLOY / "Procfile"), "-d", str(ROOT)]
    command = [sys.executable, "-m", "honcho", *files, "start", "worker"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **here}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(lambda: "2 processes are ready" in log.read_text(), 60, "the workers")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert "All processes have ended." in log.read_text()
    finally:
        process.poll() is None and os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.django_db
def test_pgbouncer_starts_with_its_file_and_leads_to_the_database():
    """With another port, and with the server and the accounts that there are here."""
    text, settings, port = (DEPLOY / "pgbouncer.ini").read_text(), connection.settings_dict, free_port()
    where = f"host={settings['HOST']} port={settings['PORT'] or 5432} user={settings['USER']}"
    changes = {
        "host=db.example.com port=5432 dbname=shop": f"{where} dbname={settings['NAME']}",
        "listen_port = 6432": f"listen_port = {port}\nunix_socket_dir =",
        "auth_type = scram-sha-256": "auth_type = any",
        "auth_file = /etc/pgbouncer/userlist.txt": "",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    with pooler.started(text, lambda: one_through(port) == 1):
        pass


def one_through(port):
    where = {"host": "127.0.0.1", "port": port, "dbname": "shop", "user": "anybody"}
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(**where) as through:
        return through.execute("SELECT 1").fetchone()[0]
