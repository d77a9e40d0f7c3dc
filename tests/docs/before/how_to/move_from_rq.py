from pgonly_django.models import Job
from pgonly_django.testing import drain


def after(page):
    assert [result.return_value for result in drain()] == ["invoice 7"]
    assert Job.objects.filter(state="scheduled").count() == 1
    backoff = dict(page.send_invoice.declared)["backoff"]
    assert [backoff(attempt, ValueError()) for attempt in (1, 2, 3)] == [10, 60, 300]
