"""A Celery app that calls its tasks at once, and calls of the project."""

from celery import Celery

from pgonly_django.models import Job
from pgonly_django.testing import drain

app = Celery("shop", set_as_current=True)
app.conf.update(task_always_eager=True, task_eager_propagates=True, task_store_eager_result=False)
problems = []
PAID = {}


def pay(order_id):
    PAID[order_id] = PAID.get(order_id, 0) + 1
    return f"paid {order_id}"


class Client:
    pass


def after(page):
    succeeded = Job.objects.filter(state="succeeded")
    ran = {(job.task.rpartition(".")[2], str(job.result)) for job in succeeded}  # by the drain() of the page
    assert ran >= {
        ("send_welcome", "welcome 7"), ("charge", "paid 7"), ("refund", "paid 8"), ("render", "page 7"),
        ("report", "full report"), ("publish", "3 rows on web"), ("resize", "10"), ("count", "1"),
        ("call_api", "1"), ("all_done", "None"),
    }  # fmt: skip
    assert PAID == {7: 2, 8: 2}  # by Celery, and here
    assert page.greeting == page.result.return_value == "hello Ada"
    for each, wanted in ((page.added, 3), (page.all_added, 6)):
        each.refresh()
        assert each.return_value == wanted
    (later,) = Job.objects.filter(state="scheduled")
    assert (later.queue, later.priority, later.args) == ("mail", 30, [8])
    assert problems == []

    page.render.enqueue(8, "2000")
    assert [result.job.state for result in drain()] == ["failed"]
    page.tell_us(None, KeyError("rows"))
    assert problems == ["failed: 'rows'"]
