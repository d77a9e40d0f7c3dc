"""Tasks that wait, for the helpers of tests."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import Group

from pgonly_django import Hold, send_event, task
from pgonly_django.exceptions import EventTimeout

DAY = timedelta(days=1)


@task(takes_context=True)
def ask(context, number, timeout=None):
    limit = None if timeout is None else timedelta(seconds=timeout)
    try:
        answer = context.wait_for_event(f"approve:{number}", limit, choices=("yes", "no"), question="May it?")
    except EventTimeout:
        return "nobody answered"
    return answer


@task(takes_context=True)
async def aask(context, number):
    return await context.await_for_event(f"approve:{number}")


@task(takes_context=True)
def rest(context):
    context.sleep("rest", DAY)
    return "rested"


@task
def answer(number, payload):
    return send_event(f"approve:{number}", payload)


def pay(number):
    return number * 10


@task(takes_context=True)
def ask_and_pay(context, number):
    price = context.step("pay", pay, number)
    context.sleep("rest", DAY)
    approved = context.wait_for_event(f"approve:{number}")
    try:
        context.wait_for_event("never", DAY)
    except EventTimeout:
        last = context.step("pay again", pay, number)
    return [price, approved, last]


@task(takes_context=True)
def writes_in_each_run(context):
    context.sleep("rest", DAY)
    Group.objects.create(name=str(Group.objects.count()))
    context.sleep("rest again", DAY)


@task(takes_context=True, concurrency_key="account:{account}")
def ask_alone(context, account, number):
    return context.wait_for_event(f"approve:{number}", keep_concurrency_key=True)


@task(concurrency_key="account:{account}", priority=9)
def use(account):
    return "used"


@task(takes_context=True)
def rate(context, number):
    """A member that waits itself."""
    context.sleep("rest", DAY)
    Group.objects.create(name=f"paper {number}")
    return context.step("pay", pay, number)


@task
def publish(text): ...


@task(takes_context=True)
def ask_and_gather(context, numbers):
    context.sleep("rest", DAY)
    context.wait_for_event("begin")
    return sum(context.gather("papers", [rate.bind(each) for each in numbers]))


@task(takes_context=True)
def gathers_what_never_ends(context):
    context.gather("papers", [ask.bind(1)])


@task
def hold_itself():
    raise Hold("look at it")


@task(takes_context=True)
def gathers_what_holds_itself(context):
    context.gather("papers", [hold_itself.bind()])
