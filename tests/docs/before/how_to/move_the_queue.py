from datetime import UTC, datetime
from types import SimpleNamespace

from django.utils import timezone

from pgonly_django.models import Job, Schedule
from pgonly_django.testing import drain


def after(page):
    ran = [(result.task.name, result.return_value) for result in drain()]
    assert ("send_receipt", "receipt 7") in ran
    assert {"print_invoice", "printed"} <= {name for name, _ in ran}
    assert {("shrink", "small 7"), ("deliver", "delivered 7")} <= set(ran)
    assert Job.objects.filter(state="scheduled").count() == 3
    backoff = dict(page.send_receipt.declared)["backoff"]
    assert [backoff(attempt, ValueError()) for attempt in (1, 2, 3)] == [10, 60, 300]

    def times(**old):
        thursday = datetime(2026, 11, 26, 20, 5, tzinfo=UTC)
        with timezone.override(UTC):
            return page.times(SimpleNamespace(**{"next_run": thursday, "minutes": None, "cron": None, **old}))

    assert times(schedule_type="I", minutes=7) == {"every_seconds": 420}
    assert times(schedule_type="H") == {"every_seconds": 3600}
    assert times(schedule_type="C", cron="0 3 * * *") == {"cron": "0 3 * * *"}
    assert times(schedule_type="W") == {"cron": "5 20 * * 4"}
    assert times(schedule_type="M") == {"cron": "5 20 26 * *"}
    assert times(schedule_type="BW") is None
    Schedule.objects.create(
        name="nightly", task=page.printed.module_path, args=[1], **times(schedule_type="D")
    )
    assert Schedule.objects.get().cron == "5 20 * * *"
