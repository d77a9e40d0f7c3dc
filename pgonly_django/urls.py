"""`path("pgonly/", include("pgonly_django.urls"))`: the tick, at tick/ and at tick/<token>/; the URLs of the template
tag job_progress, at progress/; and the pages to which answer_url() leads, at answer/."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from django.urls import path
from django.urls.resolvers import RoutePattern, URLPattern

from pgonly_django.progress import answers, views
from pgonly_django.worker.tick.views import atick, tick

app_name = "pgonly"


class TickPattern(URLPattern):
    """Django resolves a URL inside the event loop under ASGI, and without one under WSGI: each gets its own view."""

    def resolve(self, path: str) -> Any:
        match = super().resolve(path)
        if match is not None:
            with suppress(RuntimeError):  # no event loop runs here
                asyncio.get_running_loop()
                match.func = atick
        return match


urlpatterns = [
    TickPattern(RoutePattern(route, name="tick", is_endpoint=True), tick, None, "tick")
    for route in ("tick/", "tick/<str:token>/")
] + [
    path("progress/", views.progress, name="progress"),
    path("progress/events/", views.events, name="progress_events"),
    path("progress/cancel/", views.cancel_job, name="cancel"),
    path("answer/<str:token>/", answers.answer, name="answer"),
]
