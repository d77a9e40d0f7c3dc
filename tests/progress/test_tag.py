"""What the tag puts on a page."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import engines

from pgonly_django.models import State
from pgonly_django.progress.tokens import TokenRefusedError, grant_of, owner_of
from tests.jobs import emitting
from tests.queue.rows import make, make_running, make_worker

pytestmark = pytest.mark.django_db
TOKEN = re.compile(r'data-token="([^"]+)"')


def test_the_page_says_the_state_without_javascript(render, ada):
    job = make_running(make_worker().pk, progress={"done": 1, "total": 4, "message": "<b>"})
    html = render("", job, ada)
    assert ">Running</span>" in html
    assert "25 %" in html
    assert "&lt;b&gt;" in html
    assert "<noscript>" in html
    assert "<form" not in html
    assert "<pre" not in html


@pytest.mark.parametrize("kind", ["result", "row", "id", "text"])
def test_a_job_may_be_named_in_each_way(render, ada, kind):
    result = emitting.say.enqueue("a")
    job = {"result": result, "row": result.job, "id": result.job.pk, "text": result.id}[kind]
    grant = grant_of(TOKEN.search(render("", job, ada))[1], f"user {ada.pk}")
    assert (grant.job_id, grant.backend, grant.may_cancel) == (result.id, "default", False)


def test_the_script_stands_once_on_a_page_with_several_jobs(request_of, render):
    request = request_of()
    html = render("", make(), request=request) + render("", make(), request=request)
    assert (html.count("progress.js"), html.count("data-pgonly-progress")) == (1, 2)


def test_a_visitor_without_an_account_is_told_apart_by_the_session(render, request_of):
    request = request_of()
    token = TOKEN.search(render("", make(), request=request))[1]
    same = request_of(session=request.session)
    assert grant_of(token, owner_of(same))
    with pytest.raises(TokenRefusedError):
        grant_of(token, owner_of(request_of()))


def test_a_request_without_user_and_session_is_said(request_of, render):
    request = request_of()
    del request.session
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        render("", make(), request=request)


def test_a_template_without_a_request_is_said():
    with pytest.raises(ImproperlyConfigured, match="needs the request"):
        engines["django"].from_string("{% load pgonly %}{% job_progress job %}").render({"job": make()})


def test_what_is_no_job_is_said(render, ada):
    with pytest.raises(ValueError, match="needs a result of enqueue"):
        render("", "no job", ada)


def test_cancel_and_output_are_there_when_they_are_asked_for_under_a_strict_policy(render, ada):
    html = render("cancel=True output=True", make(), ada)
    assert 'action="/pgonly/progress/cancel/"' in html
    assert 'name="next" value="/page/?a=1"' in html
    assert '<pre class="pgonly-progress-output"' in html
    assert not re.search(r"style=|\son\w+=|<style|<script>", html)
    assert "hidden>\n    <input" in render("cancel=True", make(state=State.SUCCEEDED), ada)


def test_a_missing_include_is_said(render, ada, settings):
    settings.ROOT_URLCONF = "tests.progress.urls_without_ours"
    with pytest.raises(ImproperlyConfigured, match=r'include\("pgonly_django.urls"\)'):
        render("", make(), ada)
