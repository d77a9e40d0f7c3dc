"""LangGraph: the job of docs/how-to/language_models.md, with its saver in the test database and a fake model."""

from __future__ import annotations

from typing import TypedDict

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from psycopg.conninfo import make_conninfo

from pgonly_django import send_event
from pgonly_django.models import Job
from tests.docs.pages import snippet

pytestmark = pytest.mark.slow

exec(snippet("how-to/language_models.md", "AsyncPostgresSaver.from_conn_string"), globals())
model = FakeListChatModel(responses=["A draft."])
called = []


class State(TypedDict):
    topic: str
    draft: str
    verdict: str


async def write(state: State):
    called.append("write")
    return {"draft": (await model.ainvoke(state["topic"])).content}


async def check(state: State):
    called.append("check")
    if called.count("check") == 1:
        raise ConnectionError("once")


async def review(state: State):
    return {"verdict": interrupt(f"Publish {state['draft']!r}?")}


builder = StateGraph(State)
for node in (write, check, review):
    builder.add_node(node)
builder.add_edge(START, "write")
builder.add_edge("write", "check")
builder.add_edge("check", "review")
builder.add_edge("review", END)


@pytest.fixture
def saver(transactional_db, monkeypatch):
    """Its tables, and the address of the database for the job."""
    settings = connection.get_connection_params()
    names = settings.keys() & {"host", "port", "dbname", "user", "password"}
    url = make_conninfo(**{name: settings[name] for name in names})
    monkeypatch.setenv("DATABASE_URL", url)

    async def make_tables():
        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()

    async_to_sync(make_tables)()
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE checkpoints, checkpoint_blobs, checkpoint_writes, checkpoint_migrations")


def test_a_graph_continues_after_its_last_node_and_an_interrupt_waits_for_a_person(saver, work):
    called.clear()
    job = publish.enqueue("cats")  # noqa: F821 - of the page
    work()
    Job.objects.filter(state="scheduled").run_now()  # after the error of the second node
    work()
    assert called == ["write", "check", "check"]
    wait = Job.objects.get(pk=job.id).waits.get()
    assert (wait.question, wait.choices) == ("Publish 'A draft.'?", ["yes", "no"])
    assert send_event(wait.key, "yes")
    work()
    job.refresh()
    assert (job.job.state, job.return_value) == ("succeeded", "yes"), job.job.errors
    assert called == ["write", "check", "check"]
