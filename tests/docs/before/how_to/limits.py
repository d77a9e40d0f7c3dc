"""A client that answers, and a provider that does not say 429 this time."""

from types import SimpleNamespace

from pgonly_django.models import Limiter
from tests.docs.assumed import job_context, project_module

prompt, url, body = "Is it about cats?", "https://api.example.com/chat", {}
client = SimpleNamespace(
    chat=lambda _prompt: SimpleNamespace(text="Yes.", usage=SimpleNamespace(total_tokens=120))
)
context = job_context()
project_module("httpx", post=lambda _url, json: SimpleNamespace(status_code=200, headers={}))


def after(page):
    assert page.ask("a prompt") == "Yes."
    assert page.use.waited_seconds < 5
    assert Limiter.objects.filter(name="deepseek").exists()
