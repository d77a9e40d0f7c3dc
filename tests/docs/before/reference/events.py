"""Metrics that count by name."""

from collections import Counter
from types import SimpleNamespace

from pgonly_django import task as declare
from pgonly_django.testing import drain

counted = Counter()
metrics = SimpleNamespace(increment=lambda name: counted.update([name]))


@declare
def send_mail():
    return "sent"


def after(page):
    send_mail.enqueue()
    drain()
    assert counted["pgonly.worker.job_ended"] == 1
    page.stop()
    send_mail.enqueue()
    drain()
    assert counted["pgonly.worker.job_ended"] == 1
