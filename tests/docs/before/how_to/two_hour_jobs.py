"""Three papers, a provider that answers, and one whose batch is done at the second look."""

from types import SimpleNamespace

from example_project.screening.models import Paper
from pgonly_django.models import Step
from pgonly_django.testing import drain, time_travel
from tests.docs.assumed import project_with_papers

__all__ = ["Paper"]  # which the page uses
project = project_with_papers(3)
calls, saved, looks = [], [], []


def chat(abstract, timeout):
    calls.append(abstract)
    return SimpleNamespace(text="included", tokens=90)


client = SimpleNamespace(chat=chat)


def save_verdict(paper, answer):
    saved.append((paper.pk, answer["verdict"]))


async def aask(abstract):
    return abstract


def submit_batch(document):
    calls.append(document)
    return {"id": f"batch of {document}"}


def find_batch(batch_id):
    looks.append(batch_id)
    return {"summary": "short"} if len(looks) > 1 else None


def after(page):
    page.screen_project.enqueue(project.pk)
    page.screen_in_eights.enqueue(project.pk)
    drain()
    assert len(calls) == len(saved) == 3
    assert Step.objects.count() == 6
    result = page.collect.enqueue(7)
    drain()
    with time_travel(page.timedelta(minutes=6)):
        (done,) = drain()
    assert done.return_value == {"summary": "short"}
    assert done.id == result.id
    assert calls.count(7) == 1
