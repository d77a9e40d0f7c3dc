"""A reviewer that asks an OpenAI-compatible chat API: DeepSeek, OpenAI or your own model server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from example_project.screening.reviewers.interface import Assignment, Calls, Decision, Opinion
from example_project.screening.reviewers.prompt import REMINDER, conversation, parse_opinion
from example_project.screening.reviewers.retry_after import parse_retry_after
from pgonly_django import Discard, Retry

Message = dict[str, str]

MAX_QUESTIONS = 2  # about one paper
FIRST_WAIT_SECONDS = 1.0
BUSY = (408, 409, 425, 429)  # and every 5xx
PAPER_REFUSED = (400, 413, 422)  # by a content filter, for instance; another paper may pass
QUOTED_CHARACTERS = 300


class BusyError(Exception):
    """The API cannot answer now. `wait_seconds` is how long it asked to wait, if it did."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class RefusedError(Exception):
    """The API refuses this paper."""


@dataclass(frozen=True, slots=True)
class ChatReviewer:
    """`patience_seconds`: how long the job waits in total for one answer before it raises Retry."""

    model: str
    base_url: str
    api_key: str
    timeout_seconds: float = 60
    patience_seconds: float = 60

    @classmethod
    def from_settings(cls, model: str) -> ChatReviewer:
        """Raises ImproperlyConfigured without CHAT_API_KEY."""
        if not settings.CHAT_API_KEY:
            raise ImproperlyConfigured(f"The reviewer chat:{model} needs CHAT_API_KEY in the environment.")
        return cls(
            model,
            settings.CHAT_BASE_URL.rstrip("/"),
            settings.CHAT_API_KEY,
            settings.CHAT_TIMEOUT_SECONDS,
            settings.CHAT_PATIENCE_SECONDS,
        )

    @property
    def name(self) -> str:
        return f"chat:{self.model}"

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        """Raises Retry when the API stays busy, Discard when it refuses the key, the model or the address."""
        messages = conversation(assignment)
        try:
            for _ in range(MAX_QUESTIONS):
                answer = self._answer(messages, calls)
                opinion = parse_opinion(answer)
                if opinion is not None:
                    return opinion
                messages = [*messages, {"role": "assistant", "content": answer}, REMINDER]
        except RefusedError as refusal:
            return Opinion(Decision.UNSURE, f"The API refused this paper: {refusal}")
        return Opinion(Decision.UNSURE, "No readable verdict in two answers.")

    def _answer(self, messages: list[Message], calls: Calls) -> str:
        waited, wait = 0.0, FIRST_WAIT_SECONDS
        while True:
            try:
                return calls.make(lambda: self._post(messages))
            except BusyError as busy:
                wait = busy.wait_seconds if busy.wait_seconds is not None else wait * 2
                if waited + wait > self.patience_seconds:
                    raise Retry(wait, f"{self.name} is busy: {busy}") from busy
            calls.pause(wait)
            waited += wait

    def _post(self, messages: list[Message]) -> str:
        try:
            response = httpx.post(
                f"{self.base_url}/chat/completions",
                json={"model": self.model, "messages": messages, "temperature": 0},
                headers={"Authorization": f"Bearer {self.api_key}"},
                timeout=self.timeout_seconds,
            )
        except httpx.TransportError as error:
            raise BusyError(f"{type(error).__name__}: {error}") from error
        self._check(response)
        return _content(response)

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        status, text = response.status_code, response.text[:QUOTED_CHARACTERS]
        if status in BUSY or response.is_server_error:
            raise BusyError(f"{status} {text}", parse_retry_after(response.headers.get("Retry-After")))
        if status in PAPER_REFUSED and "model" not in text.lower():
            raise RefusedError(f"{status} {text}")
        raise Discard(f"{self.base_url} refused {self.name}: {status} {text}")


def _content(response: httpx.Response) -> str:
    """The text of the answer. Empty when the response has another shape; the caller counts that as unreadable."""
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
