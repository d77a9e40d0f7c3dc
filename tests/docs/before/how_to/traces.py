from pgonly_django import instruments
from pgonly_django.models import Job
from tests.jobs import add


def after(page):
    from pgonly_django.monitoring.opentelemetry import uninstrument
    from pgonly_django.testing import drain

    before = {
        name: hook.functions for name, hook in vars(instruments).items() if isinstance(hook, instruments.Hook)
    }
    try:
        page.request_id.set("7f")
        add.enqueue(1)
        assert Job.objects.get().metadata == {"request": "7f"}
        drain()
        page.ScreeningConfig.ready(None)
    finally:
        uninstrument()
        for name in before:
            getattr(instruments, name).functions = ()
