from example_project.screening.models import Paper
from pgonly_django import task
from pgonly_django.models import Budget, Job
from pgonly_django.tasks.registry import import_task
from pgonly_django.testing import drain
from tests.docs.assumed import project_with_papers

__all__ = ["Paper"]  # which the page uses
PGONLY = {"BUDGETS": {"pilot": {"usd": 10}}}
project = project_with_papers(120, pk=20)


@task(takes_context=True)
def screen_papers(context, pks):
    for pk in context.iterate(pks):
        context.step(str(pk), str.upper, "yes", cost=0.001)


def after(page):
    drain()
    assert [(job.queue, job.state) for job in Job.objects.order_by("pk")] == [
        ("default", "succeeded"),
        ("canary", "succeeded"),
    ]
    assert len(page.result.job.args[0]) == 100
    assert float(Budget.objects.get(name="pilot").spent) == 0.1
    assert import_task("shop.tasks.send_mail") == page.send_invoice
