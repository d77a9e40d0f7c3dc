"""Every page works under `Content-Security-Policy: default-src 'self'`: nothing inline, and nothing of other sites."""

from __future__ import annotations

import re

import pytest

from pgonly_django.models import State
from tests.admin.conftest import make_job
from tests.admin.test_roles import ADMINS, OF_VERBS, ROWS, pages_of

pytestmark = pytest.mark.django_db

HOME = "/admin/pgonly_django/"
FORBIDDEN = {
    "a style attribute": r"<[^>]*\sstyle\s*=",
    "an inline style": r"<style\b",
    "an inline script": r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")",
    "a handler": r"<[^>]*\son\w+\s*=",
    "a javascript address": r"=\s*[\"']?javascript:",
    "another site": r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//",
}


def broken(html: str) -> list[str]:
    return [name for name, pattern in FORBIDDEN.items() if re.search(pattern, html, re.IGNORECASE)]


def test_the_patterns_find_what_they_forbid():
    html = (
        '<p style="color:red" onclick="x()"></p><style></style><script>1</script><a href="javascript:1"></a>'
    )
    assert broken(html + '<script src="//cdn.example.org/x.js"></script>') == [*FORBIDDEN]
    assert broken('<script src="/static/x.js"></script><p title="on=1">style = 1</p>') == []


@pytest.mark.slow
def test_no_page_has_anything_inline(admin_client):
    found = {}
    for name in ADMINS:
        row = ROWS[name]()
        for address in pages_of(name).values():
            path = f"{HOME}{name}/{address}".replace("<path:alias>", "answers")
            path = path.replace("<str:name>", "cancel").format(row.pk)
            found[path] = broken(admin_client.get(path, follow=True).text)
    found[HOME] = broken(admin_client.get(HOME).text)
    assert {path: problems for path, problems in found.items() if problems} == {}


def test_no_page_of_a_row_in_another_state_has_anything_inline(admin_client):
    for (name, verb), make in OF_VERBS.items():
        row = make()
        html = admin_client.get(f"{HOME}{name}/{row.pk}/change/", follow=True).text
        assert broken(html) == [], (name, verb)
        type(row).objects.filter(pk=row.pk).delete()


def test_no_page_that_asks_before_an_action_has_anything_inline(admin_client):
    for action in ("redrive_jobs", "delete_selected", "retry_jobs"):
        data = {"action": action, "_selected_action": [make_job(State.FAILED).pk]}
        assert broken(admin_client.post(f"{HOME}job/", data, follow=True).text) == [], action
