"""An HTTP server of a test, which notes what it is asked and answers what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    method: str
    target: str  # as in the request line: with the host where this is a proxy
    headers: dict[str, str]

    @property
    def bearer(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")


@dataclass
class Receiver:
    status: int = 202
    location: str = ""
    asked: list[Asked] = field(default_factory=list)
    # While it is cleared, no request is answered.
    answers: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/wake"


@contextmanager
def receiver(**options: Any) -> Iterator[Receiver]:
    known = Receiver(**options)
    known.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            known.asked.append(Asked(self.command, self.path, dict(self.headers)))
            known.answers.wait(60)
            self.send_response(known.status)
            if known.location:
                self.send_header("Location", known.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield known
    finally:
        known.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
