"""The project that docs/how-to/testing.md speaks of."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

from django.core import mail
from django.utils import timezone

from pgonly_django import budget, task
from pgonly_django.exceptions import EventTimeout


@task
def fetch_feed(url):
    raise OSError(url)


@task
def bill(order_id):
    return order_id


@task
def refund(order_id):
    return order_id


@task
def send_mail(template, to="ada@example.org"):
    mail.outbox.append(SimpleNamespace(subject=template, to=[to]))


@task
def remind(user_id):
    mail.outbox.append(SimpleNamespace(subject="A reminder", to=[f"{user_id}@example.org"]))


@task(takes_context=True)
def make_report(context, pages):
    for page in context.iterate(range(pages)):
        context.step(f"page {page}", int, page)
    context.save_checkpoint(pages)
    return context.checkpoint


@task(takes_context=True)
def review_later(context, text):
    return context.step("review", len, text, cost=0.01, budget=budget("project:7", usd=5))


@task(takes_context=True)
def ship(context, order_id):
    try:
        context.wait_for_event(f"approve:{order_id}", timedelta(days=3))
    except EventTimeout:
        return "cancelled"
    return "shipped"


def place_order():
    order = SimpleNamespace(pk=7)
    tomorrow = timezone.now() + timedelta(days=1)
    bill.using(queue_name="billing", run_after=tomorrow).enqueue(order.pk)
    return order
