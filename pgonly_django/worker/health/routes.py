"""What is answered under which path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pgonly_django.worker.health.http import Request, Response
from pgonly_django.worker.health.metrics import CONTENT_TYPE, exposition
from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.status import Status

Handler = Callable[[Request], Response]
Routes = Mapping[str, Mapping[str, Handler]]  # by path, then by method; HEAD is GET


def routes_of(snapshot: Callable[[], Snapshot]) -> dict[str, dict[str, Handler]]:
    """Of what is asked with GET."""
    answers = {"/": live, "/live": live, "/ready": ready, "/busy": busy, "/metrics": metrics}
    return {path: {"GET": _handler(answer, snapshot)} for path, answer in answers.items()}


def _handler(answer: Callable[[Snapshot], Response], snapshot: Callable[[], Snapshot]) -> Handler:
    return lambda _request: answer(snapshot())


def respond(routes: Routes, request: Request) -> Response:
    methods = routes.get(request.path)
    if methods is None:
        known = ", ".join(sorted(routes))
        return Response.of(404, {"error": f"There is no {request.path} here. There is: {known}"})
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        allowed = ", ".join(("GET, HEAD" if method == "GET" else method) for method in methods)
        return Response.of(405, {"error": f"{request.path} takes {allowed}."}, Allow=allowed)
    return handler(request)


def live(snapshot: Snapshot) -> Response:
    reason = snapshot.why_not_live()
    return _answer("live", reason, workers=[_shown(each) for each in snapshot.workers])


def ready(snapshot: Snapshot) -> Response:
    states = [each.state.value for each in snapshot.workers] + ["starting"] * snapshot.starting
    return _answer("ready", snapshot.why_not_ready(), workers={each: states.count(each) for each in states})


def busy(snapshot: Snapshot) -> Response:
    running = snapshot.running
    return Response.of(200 if running else 503, {"busy": running > 0, "running": running})


def metrics(snapshot: Snapshot) -> Response:
    return Response(200, exposition(snapshot).encode(), CONTENT_TYPE)


def _answer(name: str, reason: str | None, **facts: Any) -> Response:
    if reason is None:
        return Response.of(200, {name: True, **facts})
    return Response.of(503, {name: False, "reason": reason, **facts})


def _shown(status: Status) -> dict[str, Any]:
    """A person reads how long ago, and no other machine can read the clock of this one."""
    facts = {**asdict(status), "turned_seconds_ago": round(status.turned_seconds_ago, 3)}
    del facts["turned_at"], facts["idle_since"]
    return facts
