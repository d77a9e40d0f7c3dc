"""A model whose answer comes in pieces."""

from django.urls import reverse

from pgonly_django.testing import drain


def stream_of_model(_document_id):
    return ["It is ", "about cats."]


def after(page):
    assert reverse("pgonly:progress")
    result = page.summarize.enqueue(1)
    drain()
    shown = []
    result.refresh()
    page.follow(result, shown.append)
    assert shown == ["Summary\n\nIt is about cats."]
