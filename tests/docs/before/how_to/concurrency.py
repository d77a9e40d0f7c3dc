from pgonly_django.models import Job, Queue


def after(page):
    assert Queue.objects.get(name="ai").paused_at is None
    page.screen.enqueue(7, 1)
    page.export.enqueue({"id": 3, "is_staff": False})
    page.export.enqueue({"id": 4, "is_staff": True})
    keys = Job.objects.order_by("id").values_list("concurrency_key", "concurrency_limit")
    assert list(keys) == [("account:7", 1), ("3", 3), (None, None)]
