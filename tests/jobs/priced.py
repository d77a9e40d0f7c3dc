"""Tasks whose steps say what they cost."""

from __future__ import annotations

from django.db import transaction

from pgonly_django import Cost, Costed, budget, task
from pgonly_django.models import Budget
from tests.jobs import AT_ONCE, mark


def ask(answer="yes"):
    mark("asked")
    return {"text": answer, "in": 900, "out": 7}


def price_of(answer):
    return Cost(0.01, answer["in"], answer["out"])


def ask_with_cost():
    mark("asked")
    return Costed("yes", Cost(0.02, 5, 6, "large"))


def ask_and_look():
    mark("asked")
    return str(Budget.objects.get().reserved)


async def ask_async():
    return "yes"


@task(takes_context=True)
def say_what_it_costs(context):
    fixed = context.step("fixed", ask, cost=0.005)
    known = context.step("known behind it", ask, "no", cost=price_of)
    with_it = context.step("with the result", ask_with_cost)
    return [fixed["text"], known["text"], with_it]


@task(takes_context=True, max_attempts=2, backoff=AT_ONCE)
def pay_then_fail(context):
    context.step("pay", ask, cost=0.01, budget="p")
    if context.attempt == 1:
        raise ValueError("after the step")


@task(takes_context=True)
def pay_from_a_budget(context, cost=0.02, reserve=0.1, name="pay"):
    return context.step(name, ask_and_look, cost=cost, budget=budget("p"), reserve=reserve)


@task(takes_context=True)
def pay_what_the_result_says(context):
    return context.step("pay", ask_with_cost, budget="p", reserve=0.1)


class RefusedError(Exception):
    """As those of openai and anthropic."""

    status_code = 429


def ask_in_vain():
    raise RefusedError


async def ask_in_vain_async():
    raise RefusedError


@task(takes_context=True, max_attempts=1)
def be_refused(context, one_call):
    context.step("pay", ask_in_vain, budget="p", reserve=0.1, one_call=one_call)


@task(takes_context=True, max_attempts=1)
async def be_refused_async(context, one_call):
    await context.astep("pay", ask_in_vain_async, budget="p", reserve=0.1, one_call=one_call)


@task(takes_context=True)
def do_not_know_the_cost(context):
    return context.step("pay", ask, cost=lambda answer: answer["price"], budget="p", reserve=0.1)["text"]


@task(takes_context=True)
def return_what_is_no_json(context):
    context.step("pay", object, cost=0.03, budget="p", reserve=0.1)


@task(takes_context=True, max_attempts=1)
def pay_and_roll_back(context):
    with transaction.atomic():
        context.step("pay", ask, cost=0.03, budget="p")
        raise ValueError("rolled back")


@task(takes_context=True)
def pay_in_a_transaction(context):
    with transaction.atomic():
        context.step("pay", ask, cost=0.03, budget="p")


@task(takes_context=True)
def ask_for_the_impossible(context, cost=None, budget_name=None, reserve=None):
    context.step("pay", ask, cost=cost, budget=budget_name, reserve=reserve)


@task(takes_context=True)
async def pay_async(context):
    return await context.astep("pay", ask_async, cost=0.04, budget="p")


@task(takes_context=True, budget="project:{project_id}")
def pay_for_a_project(context, project_id, count=1):
    for number in range(count):
        context.step(f"pay {number}", ask_with_cost)
    return context.budget.name
