"""The agent of docs/how-to/language_models.md."""

from __future__ import annotations

from example_project.screening.models import Paper  # noqa: F401 - for the page
from tests.docs.pages import snippet

code = snippet("how-to/language_models.md", "from pydantic_ai import Agent")
exec(code.replace('"deepseek:deepseek-chat"', '"test"'), globals())
