from __future__ import annotations

import os
import time

import pytest

from pgonly_django.events import subscribe
from pgonly_django.exceptions import OptionError
from pgonly_django.worker.health import heartbeat_file as module
from pgonly_django.worker.health.health import Health
from pgonly_django.worker.health.heartbeat_file import HeartbeatFile
from tests.waiting import wait_for
from tests.worker.health.statuses import snapshot, status

AN_HOUR_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def always_due(monkeypatch):
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.02)


def age(path):
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO))


def is_fresh(path):
    return path.exists() and path.stat().st_mtime > AN_HOUR_AGO + 60


def test_it_is_touched_while_the_loops_turn_and_removed_at_the_end(tmp_path):
    path = tmp_path / "alive"
    health = Health(file=str(path))
    assert is_fresh(path)
    with health.in_thread():
        age(path)
        wait_for(lambda: is_fresh(path))
        health.snapshot = lambda: snapshot(status(), status(stalled=True))
        deadline = health.file.next_deadline()
        wait_for(lambda: health.file.next_deadline() > deadline)  # one that was under way is over
        age(path)
        deadline = health.file.next_deadline()
        wait_for(lambda: health.file.next_deadline() > deadline)
        assert not is_fresh(path)
        health.snapshot = lambda: snapshot(status())
        wait_for(lambda: is_fresh(path))
    assert not path.exists()


def test_one_that_was_deleted_comes_back(tmp_path):
    path = tmp_path / "alive"
    file = HeartbeatFile(str(path))
    path.unlink()
    file.touch_if_due(is_live=True)
    assert path.exists()


def test_it_keeps_what_stands_in_the_file(tmp_path):
    path = tmp_path / "alive"
    path.write_text("text")
    HeartbeatFile(str(path))
    assert path.read_text() == "text"


def test_one_that_cannot_be_written_is_a_clear_error_at_the_start(tmp_path):
    with pytest.raises(OptionError, match=r"--heartbeat-file .*/no/alive cannot be written: No such file"):
        HeartbeatFile(str(tmp_path / "no" / "alive"))
    with pytest.raises(OptionError, match="Is a directory"):
        HeartbeatFile(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="cannot be written"):  # and not for ever
        HeartbeatFile(str(tmp_path / "pipe"))


def test_later_failures_are_logged_once_and_tried_again(tmp_path):
    path = tmp_path / "folder" / "alive"
    path.parent.mkdir()
    file, said = HeartbeatFile(str(path)), []
    stop = subscribe(lambda name, facts: said.append(name))
    path.unlink()
    path.parent.rmdir()
    for _ in range(3):
        file._next = 0.0
        file.touch_if_due(is_live=True)
    assert said == ["worker.heartbeat_file_failed"]
    path.parent.mkdir()
    file._next = 0.0
    file.touch_if_due(is_live=True)
    assert path.exists()
    stop()


def test_another_current_directory_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = HeartbeatFile("alive")
    monkeypatch.chdir("/")
    file.remove()
    assert not (tmp_path / "alive").exists()
