"""A client whose calls cost a cent, and a function that knows the price."""

from types import SimpleNamespace

from pgonly_django import budget as budget_of
from pgonly_django.models import CostEntry, Job
from pgonly_django.testing import drain
from tests.docs.assumed import job_context

prompt, text, project_id = "Is it about cats?", "An abstract", 7
client = SimpleNamespace(
    chat=lambda _prompt: SimpleNamespace(text="Yes.", usage={"total": 120}, tokens_in=100, tokens_out=20)
)
context = job_context()
budget_of("project:7", usd=5).reserve(0.02).__enter__().settle(0)


def price_of(_usage_or_answer):
    return 0.01


def embed(_text):
    return [0.1, 0.2]


def ask_as_json(_prompt):
    return {"usd": 0.02, "model": "large"}


def after(page):
    page.ask(SimpleNamespace(pk=7), "a prompt")
    page.screen.enqueue(7)
    drain()
    assert Job.objects.get().state == "succeeded"
    assert sorted(float(cost.usd) for cost in CostEntry.objects.all()) == [0, 0.0004, 0.01, 0.01, 0.01, 0.02]
