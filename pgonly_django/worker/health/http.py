"""The little of HTTP/1.1 that probes, scrapers and schedulers need: one request and one response per connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

REQUEST_LIMIT = 4096  # bytes, with the body
JSON = "application/json"


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, facts: Mapping[str, Any], **headers: str) -> Response:
        """`facts` as JSON, in one line."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(facts, default=str).encode() + b"\n", headers=names)

    def encode(self, *, with_body: bool) -> bytes:
        head = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        return "\r\n".join((*lines, "", "")).encode("latin-1") + (self.body if with_body else b"")


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # without the query, and without a slash at its end
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # their names in lower case
    body: bytes = b""


class RefusedError(Exception):
    """What was received is no request that is served here."""

    def __init__(self, status: int, reason: str) -> None:
        self.response = Response.of(status, {"error": reason})
        super().__init__(reason)


def parse(received: bytes) -> Request | None:
    """The request, or None while it is incomplete. Raises RefusedError."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        if len(received) >= REQUEST_LIMIT:
            raise RefusedError(431, f"A request may have {REQUEST_LIMIT} bytes.")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, query = _request_line(first)
    headers = _headers(lines)
    length = _content_length(headers)
    if len(head) + len(end) + length > REQUEST_LIMIT:
        raise RefusedError(413, f"A request may have {REQUEST_LIMIT} bytes.")
    if len(body) < length:
        return None
    return Request(method, path, query, headers, body[:length])


def _request_line(line: str) -> tuple[str, str, str]:
    method, _, rest = line.partition(" ")
    target, _, version = rest.rpartition(" ")
    if not method.isalpha() or not version.startswith("HTTP/1.") or not target.startswith("/"):
        raise RefusedError(400, "This is no HTTP request.")
    path, _, query = target.partition("?")
    return method.upper(), path.rstrip("/") or "/", query


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise RefusedError(400, "A header of the request has no name or no colon.")
        if name.lower() == "content-length" and name.lower() in found:
            raise RefusedError(400, "The request has two lengths.")
        found[name.lower()] = value.strip()
    return found


def _content_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise RefusedError(411, "Send the body with a Content-Length.")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise RefusedError(400, "Content-Length must be a whole number.")
    return int(text[:9])
