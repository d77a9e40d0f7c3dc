from pgonly_django.models import Job
from pgonly_django.testing import drain


def after(page):
    assert [result.return_value for result in drain()] == ["invoice 7"]
    assert Job.objects.filter(state="scheduled").count() == 1
    assert [page.send_invoice.backoff(attempt, ValueError()) for attempt in (1, 2, 3)] == [10, 60, 300]
