"""An HTTP server of a test, which notes what it is asked and answers what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


@dataclass
class Asked:
    method: str
    target: str  # as in the request line: with the host where this is a proxy
    headers: dict[str, str]
    body: bytes

    @property
    def bearer(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")


@dataclass
class Receiver:
    status: int = 202
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    # While it is cleared, no request is answered.
    answers: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/wake"

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return self.status, self.headers, b""


R = TypeVar("R", bound=Receiver)


@contextmanager
def receiver(kind: type[R] = Receiver) -> Iterator[R]:
    known = kind()
    known.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, dict(self.headers), body)
            known.asked.append(asked)
            known.answers.wait(60)
            status, headers, text = known.answer(asked)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

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
