"""OpenAI Agents SDK: the job of docs/how-to/language_models.md, with the library's scripted model."""

from __future__ import annotations

import os

import pytest

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # read at the import: it would send traces to OpenAI

from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from pgonly_django import send_event
from pgonly_django.models import Job
from tests.docs.pages import snippet

pytestmark = pytest.mark.slow

exec(snippet("how-to/language_models.md", "from agents import Runner, RunState"), globals())
called = []


@function_tool
def look_up(order: int) -> str:
    """Look an order up."""
    called.append("look_up")
    return f"Order {order} was 5 euros."


@function_tool(needs_approval=True)
def refund(order: int) -> str:
    """Refund an order."""
    called.append("refund")
    return "Refunded."


@pytest.fixture
def model(monkeypatch):
    called.clear()
    model = ScriptedModel(
        [
            [function_call("look_up", {"order": 7}, call_id="c1")],
            [function_call("refund", {"order": 7}, call_id="c2")],
            ConnectionError("once"),
            [assistant_message("Done.")],
        ]
    )
    monkeypatch.setitem(globals(), "agent", Agent(name="support", model=model, tools=[look_up, refund]))
    return model


@pytest.mark.parametrize(("answer", "calls"), [("approve", ["look_up", "refund"]), ("deny", ["look_up"])])
def test_a_run_state_is_a_checkpoint_and_a_person_approves_a_tool(model, work, answer, calls):
    job = support.enqueue("Refund order 7.")  # noqa: F821 - of the page
    work()
    assert called == ["look_up"]
    assert len(model.calls) == 2  # a request for each of the first two turns
    assert send_event(f"approve {job.id} c2", answer)
    work()
    Job.objects.filter(state="scheduled").run_now()  # after the error of the third request
    work()
    job.refresh()
    assert (job.job.state, job.return_value) == ("succeeded", "Done."), job.job.errors
    assert called == calls
    assert model.remaining_steps == 0
