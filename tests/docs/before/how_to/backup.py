from django.db import connection

from pgonly_django.models import Job, Schedule, Session
from pgonly_django.sessions import SessionStore
from tests import jobs

jobs.add.using(queue_name="mail").enqueue(1)
Schedule.objects.create(name="nightly", task="tests.jobs.add", args=[1], cron="0 3 * * *")
session = SessionStore()
session["cart"] = [1]
session.save()


def after(page):
    from pgonly_django.models import Queue, Step
    from pgonly_django.testing import drain

    assert drain() == []  # the queue is paused
    assert Queue.objects.get(name="mail").paused_at
    assert Schedule.objects.get().paused_at
    assert Session.objects.count() == 0
    Job.objects.all().hold("restored")
    Step.objects.create(job=Job.objects.get(), name="paid", result={"of": "a model"}, usd="0.5")
    page.bring_steps(connection.alias)  # what is there stays
    assert Step.objects.get().result == {"of": "a model"}
    assert page.cancel_what_has_run(connection.alias) == 0
