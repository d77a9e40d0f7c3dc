from __future__ import annotations

import json

import pytest

from pgonly_django.database import wake_urls
from pgonly_django.worker.health.http import Request
from pgonly_django.worker.health.routes import respond
from pgonly_django.worker.health.wake import on_wake


def post(authorization, woken, method="POST"):
    routes = {"/wake": {"POST": on_wake(lambda: woken.append(1))}}
    headers = {} if authorization is None else {"authorization": authorization}
    return respond(routes, Request(method, "/wake", headers=headers))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_valid_token_wakes(scheme):
    woken = []
    answer = post(f"{scheme} {wake_urls.token()}", woken)
    assert (answer.status, json.loads(answer.body), woken) == (202, {"woken": True}, [1])


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wake:x:y", "Basic {token}", "{token}", "Bearer é"],
)
def test_nothing_else_wakes(authorization):
    woken = []
    answer = post(authorization and authorization.format(token=wake_urls.token()), woken)
    assert (answer.status, answer.headers["WWW-Authenticate"], woken) == (401, "Bearer", [])
    assert "SECRET_KEY" in json.loads(answer.body)["error"]


def test_a_get_wakes_nothing():
    woken = []
    assert (post(f"Bearer {wake_urls.token()}", woken, "GET").status, woken) == (405, [])
