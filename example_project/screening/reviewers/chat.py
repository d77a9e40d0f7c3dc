"""A reviewer behind an OpenAI-compatible chat API: DeepSeek, OpenAI, a model server of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from example_project.screening.reviewers.answer import REMINDER, conversation, opinion_in
from example_project.screening.reviewers.opinion import Assignment, Calls, Decision, Opinion
from example_project.screening.reviewers.patience import seconds_asked_for
from pgonly_django import Discard, Retry

Message = dict[str, str]

ASKED_AT_MOST = 2
FIRST_WAIT_SECONDS = 1.0
BUSY = (408, 409, 425, 429)  # and every 5xx
ABOUT_THIS_PAPER = (400, 413, 422)  # a content filter, for instance; another paper may pass
QUOTED_CHARACTERS = 300


class BusyError(Exception):
    """The API cannot answer now; it may have said when."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class RefusedError(Exception):
    """The API will not answer for this paper."""


@dataclass(frozen=True, slots=True)
class ChatReviewer:
    """`patience_seconds`: how long one answer may be waited for in all before the job goes back."""

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
            for _ in range(ASKED_AT_MOST):
                answer = self._answer(messages, calls)
                opinion = opinion_in(answer)
                if opinion is not None:
                    return opinion
                messages = [*messages, {"role": "assistant", "content": answer}, REMINDER]
        except RefusedError as refusal:
            return Opinion(Decision.UNSURE, f"The API would not read this paper: {refusal}")
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
        status, said = response.status_code, response.text[:QUOTED_CHARACTERS]
        if status in BUSY or response.is_server_error:
            raise BusyError(f"{status} {said}", seconds_asked_for(response.headers.get("Retry-After")))
        if status in ABOUT_THIS_PAPER and "model" not in said.lower():
            raise RefusedError(f"{status} {said}")
        raise Discard(f"{self.base_url} refused {self.name}: {status} {said}")


def _content(response: httpx.Response) -> str:
    """The text of the answer; empty when the response has another shape, which counts as unreadable."""
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
