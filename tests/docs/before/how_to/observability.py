"""A function that logs which job it works for, and a model of lines of an audit. What the page adds to a run is taken
away. What Sentry adds stays, since it adds that once in a process."""

import sentry_sdk
from django.db import connection, models

from pgonly_django import instruments
from pgonly_django import task as declare
from pgonly_django.current_job import current_job
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.jobs import add

SENTRY_DSN = None
paper, seen = 17, []


def ask_the_model(paper):
    seen.append((paper, current_job.get()))


class AuditLine(models.Model):
    job_id = models.UUIDField()
    ended_at = models.DateTimeField()
    task = models.TextField()
    state = models.TextField()

    class Meta:
        app_label = "docs_observability"
        unique_together = ("job_id", "ended_at")


with connection.schema_editor() as editor:
    editor.create_model(AuditLine)


@declare
def in_a_thread():
    import contextvars
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        pool.submit(contextvars.copy_context().run, ask_the_model, 18)


def after(page):
    try:
        the_job_is_known_in_a_thread()
        the_hooks_are_called(page)
        each_end_has_one_line(page)
        sentry_has_the_integration()
    finally:
        take_away_the_hooks_of(page)


def the_job_is_known_in_a_thread():
    assert seen == [(17, None)]
    in_a_thread.enqueue()
    drain()
    assert seen[1][0] == 18
    assert seen[1][1].job.task.endswith(".in_a_thread")


def the_hooks_are_called(page):
    page.request_id.set("7f")
    found = add.enqueue(1)
    assert Job.objects.get(pk=found.id).metadata["request"] == "7f"
    drain()
    page.ScreeningConfig.ready(None)


def each_end_has_one_line(page):
    lines = AuditLine.objects.order_by("ended_at")
    for _ in range(2):
        page.write_audit.func()
        ended = {(job.pk, job.finished_at, job.task, job.state) for job in Job.objects.finished()}
        assert set(lines.values_list("job_id", "ended_at", "task", "state")) == ended
        assert len(ended) == lines.count()
        add.enqueue(1, 2)
        drain()


def sentry_has_the_integration():
    from pgonly_django.monitoring.sentry import PgonlyIntegration

    assert isinstance(sentry_sdk.get_client().get_integration("pgonly_django"), PgonlyIntegration)
    sentry_sdk.get_global_scope().set_client(None)


def take_away_the_hooks_of(page):
    from pgonly_django.monitoring.opentelemetry import uninstrument

    uninstrument()
    for hook in vars(instruments).values():
        if isinstance(hook, instruments.Hook):
            hook.functions = type(hook.functions)(
                each for each in hook.functions if getattr(each, "__module__", "") != page.__name__
            )
