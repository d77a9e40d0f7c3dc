from pgonly_django import task as declare
from pgonly_django.models import Job, Queue

event = {"id": "evt_1"}


@declare
def handle_event(event):
    return event["id"]


def after(page):
    assert Queue.objects.get(name="ai").paused_at is None
    before = list(Job.objects.values_list("id", flat=True))
    page.screen.enqueue(7, 1)
    page.export.enqueue({"id": 3, "is_staff": False})
    page.export.enqueue({"id": 4, "is_staff": True})
    keys = (
        Job.objects.exclude(id__in=before).order_by("id").values_list("concurrency_key", "concurrency_limit")
    )
    assert list(keys) == [("account:7", 1), ("3", 3), (None, None)]
    assert not page.result.is_duplicate
    assert page.sync_account.enqueue(7).is_duplicate
    assert handle_event.using(idempotency_key="evt_1").enqueue(event).is_duplicate
    assert page.refresh_prices.enqueue(1).id == page.refresh_prices.enqueue(1).id
    assert page.reindex.enqueue(1, "ada").id == page.reindex.enqueue(1, "bob").id
