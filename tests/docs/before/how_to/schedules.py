"""What `reports.tasks` has, which the settings of the page name."""

from pgonly_django.models import Schedule
from pgonly_django.scheduling.decorators import declarations
from tests.docs.assumed import this_page_is

this_page_is("reports.tasks", __name__)
row = {"task": "reports.tasks.report", "args": ["full"], "cron": "0 3 * * *"}
Schedule.objects.create(name="nightly report", **row, declared=row)


def after(page):
    assert "report in the morning" in declarations()
    assert page.nightly.get().cron == "0 3 * * *"
    assert Schedule.objects.get(name="once an hour").every_seconds == 3600
