"""A shop, papers to screen, and a model that answers."""

from django.core import mail
from django.core.mail import send_mail

from example_project.screening.models import Paper
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.docs.assumed import project_with_papers

__all__ = ["Paper", "send_mail"]  # which the page uses
project = project_with_papers(2, pk=42)
orders, verdicts = {}, []


class Order:
    """As a model: `objects` has what the page calls."""

    pk = 7

    def __init__(self, email):
        self.email = email

    def receipt_text(self):
        return "1 euro"

    class objects:  # noqa: N801 - as Django calls it
        @staticmethod
        def create(email):
            return orders.setdefault(Order.pk, Order(email))

        @staticmethod
        def get(pk):
            return orders[pk]


def ask_the_model(abstract):
    return f"Yes: {abstract}"


def save_verdict(paper, answer):
    verdicts.append((paper.position, answer))


def after(page):
    drain()
    assert verdicts == [(1, "Yes: Abstract 1"), (2, "Yes: Abstract 2")]
    assert [each.to for each in mail.outbox] == [["ann@example.com"]]
    assert set(Job.objects.values_list("state", flat=True)) == {"succeeded"}
