from __future__ import annotations

from urllib.parse import urlencode
from uuid import uuid4

import pytest

from pgonly_django.models import State
from pgonly_django.tasks import registry
from tests.admin.conftest import LIST, make_job
from tests.tasks import calls

pytestmark = pytest.mark.django_db


@pytest.fixture
def found(admin_client):
    """The ids that the search box finds."""

    def search(term):
        response = admin_client.get(f"{LIST}?{urlencode({'q': term})}")
        assert response.status_code == 200
        return {job.pk for job in response.context["cl"].result_list}

    return search


def test_an_id_finds_its_job_alone(found):
    job, _ = make_job(), make_job()
    assert found(str(job.pk)) == {job.pk}
    assert found(f"  {job.pk.hex.upper()} ") == {job.pk}
    assert found(str(uuid4())) == set()


def test_a_part_of_the_task_finds_it_in_any_case(found):
    job = make_job(task="shop.mail.send_receipt")
    make_job(task="shop.mail.other")
    assert found("Send_Rec") == {job.pk}


@pytest.mark.parametrize("arguments", [{"args": ["Statins study"]}, {"kwargs": {"title": "Statins study"}}])
def test_text_in_the_arguments_is_found(found, arguments):
    job = make_job(**arguments)
    make_job(kwargs={"title": "Other"})
    assert found("statins st") == {job.pk}


@pytest.mark.parametrize("text", ['say "hi"', "C:\\temp", "日本", "100% <b>"])
def test_text_that_json_or_like_would_escape_is_found(found, text):
    job = make_job(args=[text])
    make_job(args=["say hi C:temp 100 b"])
    assert found(text) == {job.pk}


def test_name_equals_value_means_that_argument_exactly(found):
    number, text = make_job(kwargs={"project_id": 5}), make_job(kwargs={"project_id": "5"})
    make_job(kwargs={"project_id": 55})
    make_job(kwargs={"other": 5})
    assert found("project_id=5") == {number.pk, text.pk}


def test_name_equals_value_finds_a_call_that_passed_the_argument_without_its_name(found):
    path = calls.add.module_path  # add(a, b=1)
    number, text, named = make_job(task=path, args=[5, 2]), make_job(task=path, args=["2", "2"]), make_job(
        task=path, args=[5], kwargs={"b": 2}
    )  # fmt: skip
    make_job(task=path, args=[2, 5])
    make_job(task=path, args=[5])
    make_job(task="shop.unknown", args=[5, 2])
    assert found("b=2") == {number.pk, text.pk, named.pk}


def test_the_context_of_a_task_is_not_counted_among_its_arguments(found):
    job = make_job(task=calls.with_context.module_path, args=[{"n": 7}])
    nothing = make_job(task=calls.with_context.module_path, args=[None])
    assert found('page={"n": 7}') == {job.pk}
    assert found("page=null") == {nothing.pk}
    assert found("context=7") == set()


def test_a_job_that_was_stored_under_a_former_path_of_its_task_is_found_as_well(found, monkeypatch):
    monkeypatch.setitem(registry._claimed, "shop.former", calls.add)
    job = make_job(task="shop.former", args=[1, "x"])
    assert found("b=x") == {job.pk}


@pytest.mark.parametrize("term", ["a=NaN", "'; DROP TABLE pgonly_job; --", "=", "a=[1,", "\\", "x" * 5000])
def test_odd_terms_find_nothing_and_break_nothing(found, term):
    make_job()
    assert found(term) == set()


def test_a_part_of_the_unique_key_finds_its_job(found):
    job = make_job(State.SUCCEEDED, unique_key="charge evt_1NG8Du #0123")
    make_job(State.SUCCEEDED, unique_key="charge evt_2 #4567")
    assert found("evt_1ng8") == {job.pk}


def test_text_in_the_metadata_is_found_such_as_the_id_of_a_trace(found):
    job = make_job(
        metadata={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "n": 7}
    )
    make_job(metadata={"n": 77})
    assert found("0AF7651916cd43dd8448eb211c80319c") == {job.pk}
    assert found("n=7") == {job.pk}
