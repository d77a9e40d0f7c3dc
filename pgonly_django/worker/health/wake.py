"""POST /wake, which PGONLY["WAKE_URLS"] of other processes name: database/wake_urls.py sends it."""

from collections.abc import Callable

from pgonly_django.database import wake_urls
from pgonly_django.worker.health.http import Request, Response
from pgonly_django.worker.health.routes import Handler

REFUSAL = (
    "Send a token in the header Authorization, signed with the SECRET_KEY of this worker, within a minute."
)


def on_wake(wake: Callable[[], None]) -> Handler:
    """Calls `wake`, which must not block, for those who have a valid token."""

    def answer(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not wake_urls.is_valid(token.strip()):
            return Response.of(401, {"error": REFUSAL}, WWW_Authenticate="Bearer")
        wake()
        return Response.of(202, {"woken": True})

    return answer
