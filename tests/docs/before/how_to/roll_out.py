from example_project.screening.models.paper import Paper
from example_project.screening.models.project import Project
from pgonly_django import task
from pgonly_django.models import Budget, Job
from pgonly_django.testing import drain

PGONLY = {"BUDGETS": {"pilot": {"usd": 10}}}
project = Project.objects.create(pk=20, name="Cats", reviewers=["points", "pico"], budget_usd=1)
Paper.objects.bulk_create(
    Paper(project=project, position=number, title=str(number)) for number in range(1, 121)
)


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
