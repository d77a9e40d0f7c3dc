from pgonly_django import instruments
from pgonly_django.models import Job
from tests.jobs import add

# Those of Sentry stay: it adds them once in a process.
before = {hook: hook.functions for hook in vars(instruments).values() if isinstance(hook, instruments.Hook)}


def after(page):
    from pgonly_django.monitoring.opentelemetry import uninstrument
    from pgonly_django.testing import drain

    try:
        page.request_id.set("7f")
        add.enqueue(1)
        assert Job.objects.get().metadata == {"request": "7f"}
        drain()
        page.ScreeningConfig.ready(None)
    finally:
        uninstrument()
        for hook, functions in before.items():
            hook.functions = functions
