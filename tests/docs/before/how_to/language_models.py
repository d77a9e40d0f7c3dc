"""Two papers and two providers that answer, of which one says 429 at first."""

from datetime import timedelta  # noqa: F401 - for after()
from types import SimpleNamespace

from example_project.screening.models import Paper
from pgonly_django.models import Step
from pgonly_django.testing import drain, fake_limits, time_travel
from tests.docs.assumed import project_module, project_with_papers


class RateLimitError(Exception):
    retry_after = 20  # too long to be waited for in the step


project_module("openai_like", RateLimitError=RateLimitError)
project = project_with_papers(2)
asked = []


def provider(name):
    def chat(prompt, max_tokens, timeout):
        asked.append(name)
        if asked.count("qwen") == 1 and name == "qwen":
            raise RateLimitError
        return SimpleNamespace(text="include" if name == "deepseek" else f"include{prompt[-1:]}", tokens=700)

    return SimpleNamespace(chat=chat)


clients = {name: provider(name) for name in ("deepseek", "qwen")}


def price(model, tokens):
    return tokens / 1_000_000


def after(page):
    with fake_limits() as limits:
        result = page.screen.enqueue(project.pk)
        drain()
        assert result.job.state == "scheduled"
        assert [each.name for each in limits.cool_downs] == ["qwen"]
        with time_travel(page.timedelta(minutes=10)):
            drain()
    result.refresh()
    assert (result.job.state, result.attempts) == ("succeeded", 1)
    assert asked == ["deepseek", "qwen", "qwen", "deepseek", "qwen"]
    assert Step.objects.count() == 4
    assert list(Paper.objects.values_list("decided", flat=True)) == ["", ""]
    page.verdict("deepseek", Paper.objects.first().pk, "again", project.pk)
    assert len(asked) == 5
