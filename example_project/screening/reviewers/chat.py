"""A reviewer that asks an OpenAI-compatible chat API: DeepSeek, OpenAI or your own model server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from example_project.screening.reviewers.interface import (
    Assignment,
    BusyError,
    Calls,
    Decision,
    Opinion,
    Usage,
)
from example_project.screening.reviewers.prompt import REMINDER, conversation, parse_opinion
from example_project.screening.reviewers.retry_after import parse_retry_after
from example_project.screening.reviewers.tokens import most_of
from pgonly_django import Discard

Message = dict[str, str]

MAX_QUESTIONS = 2  # about one paper
BUSY = (408, 409, 425, 429)  # and every 5xx
PAPER_REFUSED = (400, 413, 422)  # by a content filter, for instance; another paper may pass
QUOTED_CHARACTERS = 300


class RefusedError(Exception):
    """The API refuses this paper."""


@dataclass(frozen=True, slots=True)
class ChatReviewer:
    model: str
    base_url: str
    api_key: str
    timeout_seconds: float = 60

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
        )

    @property
    def name(self) -> str:
        return f"chat:{self.model}"

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        """Raises Discard when the API refuses the key, the model or the address, and what `calls` raises."""
        messages = conversation(assignment)
        try:
            for _ in range(MAX_QUESTIONS):
                answer = calls.make(partial(self._post, messages), most_of(assignment))
                opinion = parse_opinion(answer)
                if opinion is not None:
                    return opinion
                messages = [*messages, {"role": "assistant", "content": answer}, REMINDER]
        except RefusedError as refusal:
            return Opinion(Decision.UNSURE, f"The API refused this paper: {refusal}")
        return Opinion(Decision.UNSURE, "No readable verdict in two answers.")

    def _post(self, messages: list[Message]) -> tuple[str, Usage | None]:
        """Raises BusyError."""
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
        return _content(response), _usage(response)

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        status, text = response.status_code, response.text[:QUOTED_CHARACTERS]
        if status in BUSY or response.is_server_error:
            wait = parse_retry_after(response.headers.get("Retry-After"))
            raise BusyError(f"{status} {text}", wait, status)
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


def _usage(response: httpx.Response) -> Usage | None:
    """What the answer took. None when the API does not say."""
    try:
        usage: Any = response.json()["usage"]
        return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (ValueError, LookupError, TypeError):
        return None
