"""Functions that are slow enough to be cached."""

from types import SimpleNamespace
from unittest import TestCase

pmid, model, abstract = "17", "a-model", "An abstract"
html, summary = "<p>A page</p>", "A summary"
project = SimpleNamespace(pk=7, save=lambda: None)
written = []
storage = SimpleNamespace(write=lambda _data, fencing_token: written.append(fencing_token))
data = b""


def build_report():
    return "a report"


async def build_report_async():
    raise AssertionError("It is in the cache already.")


async def ask_the_model(_model, _abstract):
    return "an answer"


def after(page):
    assert page.answer == "a report"
    assert "page:1" not in page.cache
    assert page.cache.get("project:7") == "A summary"
    assert len(written) == 1
    assert issubclass(page.PriceTests, TestCase)
