import os

from django.conf import settings
from django.urls import reverse

os.environ["CRON_SECRET"] = "a secret of twenty-two"


def after(page):
    assert reverse("pgonly:tick")
    assert page.wake_before_response(lambda request: f"answer to {request}")("me") == "answer to me"
    assert settings.PGONLY["TICK_SECRET"] == "a secret of twenty-two"
