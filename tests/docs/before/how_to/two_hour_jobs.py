"""Three papers, a provider that answers, and one whose batch is done at the second look."""

import asyncio
import time
from types import SimpleNamespace

from example_project.screening.models import Paper
from pgonly_django.models import Job, Step
from pgonly_django.testing import drain, time_travel
from tests.docs.assumed import project_with_papers

__all__ = ["Paper"]  # which the page uses
project = project_with_papers(3)
calls, saved, looks, outages = [], [], [], []


def chat(model, abstract, timeout):
    calls.append(abstract)
    return SimpleNamespace(text="included", tokens=90)


client = SimpleNamespace(chat=chat)


def save_verdict(paper, answer):
    saved.append((paper.pk, answer["verdict"]))


async def aask(abstract):
    if outages:
        raise outages.pop()
    await asyncio.sleep(0)
    return {"verdict": abstract}


async def asave_verdict(paper, answer):
    save_verdict(paper, answer)


def submit_batch(document):
    calls.append(document)
    return {"id": f"batch of {document}", "at": time.time()}


def find_batch(batch_id):
    looks.append(batch_id)
    return {"summary": "short"} if len(looks) > 1 else None


def after(page):
    page.screen_project.enqueue(project.pk)
    (in_eights,) = Job.objects.filter(task=page.screen_in_eights.module_path)
    assert in_eights.args == [list(project.papers.order_by("pk").values_list("pk", flat=True))]
    drain()
    assert len(calls) == 3
    assert len(saved) == Step.objects.count() == 6
    assert {step.name.partition(":")[2] for step in Step.objects.all()} == {"deepseek-chat:v3"}
    result = page.collect.enqueue(7)
    drain()
    with time_travel(page.timedelta(minutes=6)):
        (done,) = drain()
    assert done.return_value == {"summary": "short"}
    assert done.id == result.id
    assert calls.count(7) == 1
    outages.append(ConnectionError("one of three calls"))
    interrupted = page.screen_in_eights.enqueue(*in_eights.args)
    drain(raise_errors=False)
    assert interrupted.job.state == "scheduled"
    assert Step.objects.filter(job=interrupted.id).count() == 2
