"""Which addresses are tried, and in which order."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgonly_django.database import hosts
from pgonly_django.database.hosts import conninfos
from pgonly_django.database.operation import run
from pgonly_django.exceptions import DatabaseUnavailableError
from tests.waiting import wait_for

ADDRESSES = {"one": ["127.0.0.1", "127.0.0.2"], "two": ["127.0.0.3"]}


@pytest.fixture
def name_server(monkeypatch):
    """Knows the names of ADDRESSES; the list of what it was asked."""
    asked = []

    def look_up(host, port, *_, **__):
        asked.append(host)
        if host not in ADDRESSES:
            raise socket.gaierror("no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ADDRESSES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def tried(**params):
    """(host, hostaddr, port, target_session_attrs) of each attempt."""
    return tried_within(20, **params)


def tried_within(seconds, **params):
    found = [conninfo_to_dict(each.decode()) for each in run(conninfos(params, seconds))]
    names = "host", "hostaddr", "port", "target_session_attrs"
    return [tuple(each[name] for name in names if each.get(name)) for each in found]


def test_each_address_of_each_host_is_tried_in_their_order(name_server):
    assert tried(host="one,/socket,two,127.0.0.9", port="1,2,3,4") == [
        ("one", "127.0.0.1", "1"), ("one", "127.0.0.2", "1"), ("/socket", "2"), ("two", "127.0.0.3", "3"),
        ("127.0.0.9", "4"),
    ]  # fmt: skip
    assert name_server == ["one", "two"]


def test_one_port_is_for_all_hosts_and_an_address_needs_no_name_server(name_server):
    assert tried(host="a,b", hostaddr="127.0.0.1,127.0.0.2", port="5") == [
        ("a", "127.0.0.1", "5"), ("b", "127.0.0.2", "5"),
    ]  # fmt: skip
    assert name_server == []


def test_the_environment_says_what_the_parameters_do_not(monkeypatch, name_server):
    monkeypatch.setenv("PGHOST", "one,two")
    monkeypatch.setenv("PGPORT", "7,8")
    assert tried() == [("one", "127.0.0.1", "7"), ("one", "127.0.0.2", "7"), ("two", "127.0.0.3", "8")]


@pytest.mark.parametrize("said_by", ["parameter", "environment"])
def test_standbys_are_tried_first_where_they_are_preferred(monkeypatch, name_server, said_by):
    params = {"target_session_attrs": "prefer-standby"}
    if said_by == "environment":
        monkeypatch.setenv("PGTARGETSESSIONATTRS", params.popitem()[1])
    assert tried(host="one,two", **params) == [
        (name, address, kind)
        for kind in ("standby", "any")
        for name in ("one", "two")
        for address in ADDRESSES[name]
    ]


@pytest.mark.usefixtures("name_server")
def test_a_host_without_an_address_hides_no_other_and_alone_it_is_an_error():
    assert tried(host="none,two") == [("two", "127.0.0.3")]
    with pytest.raises(DatabaseUnavailableError, match=r"'none' could not be looked up.*no such host"):
        tried(host="none")


def test_more_ports_than_hosts_are_a_mistake_that_libpq_explains(name_server):
    assert tried(host="one,two", port="1,2,3") == [("one,two", "1,2,3")]
    assert name_server == []


@pytest.fixture
def slow_name_server(monkeypatch):
    """What it was asked, and the event for which its answers wait."""
    asked, answer = [], threading.Event()

    def look_up(host, port, *_, **__):
        asked.append(host)
        answer.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked, answer


def test_calls_that_need_the_same_name_share_one_lookup(slow_name_server):
    asked, answer = slow_name_server
    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError, match="no answer"):
            tried_within(0.01, host="one")
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(tried, host="one") for _ in range(2)]
        wait_for(lambda: all(each.running() for each in waiting))
        answer.set()
        assert [each.result(20) for each in waiting] == [[("one", "127.0.0.1")]] * 2
    assert asked == ["one"]


def test_an_answer_that_comes_when_the_call_has_given_up_is_for_the_next_one_alone(slow_name_server):
    asked, answer = slow_name_server
    with pytest.raises(DatabaseUnavailableError, match="no answer"):
        tried_within(0.01, host="one")
    answer.set()
    wait_for(hosts._lookups["one"][1].done)
    for times in (1, 2):
        assert tried(host="one") == [("one", "127.0.0.1")]
        assert asked == ["one"] * times


def test_an_answer_that_came_long_ago_is_no_answer_any_more(monkeypatch, name_server):
    old = hosts.Future()
    old.set_result(["127.0.0.9"])
    monkeypatch.setitem(hosts._lookups, "two", (float("-inf"), old))
    assert tried(host="two") == [("two", "127.0.0.3")]
    assert name_server == ["two"]
