"""Twenty jobs that lose, double or spoil something when they are killed and resumed, for assert_resumable()."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.db import transaction

from pgonly_django import task
from tests.testing.resumable_jobs import follow_up, only_test_user, pay


def new_user(name):
    return User.objects.create(username=str(uuid.uuid4()), last_name=name)


@task
def writes_the_second_row_only_with_the_first():
    if not Group.objects.filter(name="order").exists():
        Group.objects.create(name="order")
        new_user("of the order")


@task(takes_context=True)
def writes_a_row_in_a_step(context):
    context.step("import", lambda: new_user("imported").last_name)


@task
def enqueues_behind_its_commit():
    with transaction.atomic():
        _, is_new = Group.objects.get_or_create(name="order")
    if is_new:
        follow_up.enqueue(1)


@task(takes_context=True)
def iterates_over_a_set(context):
    for name in context.iterate({"a", "b", "c", "d"}):
        Group.objects.get_or_create(name=name)


@task(takes_context=True)
def knows_only_its_last_item(context):
    """One item that comes again does no harm."""
    user = only_test_user()
    for number in context.iterate(range(6)):
        if user.first_name != str(number):
            user.email += f"{number},"
            user.first_name = str(number)
            user.save()


@task
def counts_in_the_cache_beside_its_transaction():
    cache = caches["answers"]
    cache.add("orders", 0)
    with transaction.atomic():
        _, is_new = Group.objects.get_or_create(name="order")
        if is_new:
            cache.incr("orders")


@task(takes_context=True)
def writes_a_row_for_each_item(context):
    for number in context.iterate(range(2)):
        new_user(f"number {number}")


@task(takes_context=True)
def pays_in_a_transaction(context):
    with transaction.atomic():
        for number in range(2):
            context.step(f"pay {number}", pay, number)


@task(takes_context=True)
def pays_outside_of_a_step(context):
    pay(1)
    context.save_checkpoint("paid")


@task(takes_context=True)
def keeps_its_sum_in_memory(context):
    total = 0
    for number in context.iterate(range(3)):
        total += number
    return total


@task(takes_context=True)
def says_that_it_has_paid_before_it_pays(context):
    if context.checkpoint is None:
        context.save_checkpoint("paid")
        context.step("pay", pay, 1)


@task
def writes_at_its_end():
    new_user("at the end")


@task(takes_context=True)
def enqueues_before_a_step(context):
    follow_up.enqueue(1)
    context.step("pay", pay, 1)


@task(takes_context=True)
def names_a_step_by_its_run(context):
    context.step(f"pay in run {context.checkpoint or 1}", pay, 1)
    context.save_checkpoint(2)


@task(takes_context=True)
def adds_to_a_row(context):
    user = only_test_user()
    user.first_name += "+"
    user.save()
    context.step("pay", pay, 1)


@task(takes_context=True)
def begins_before_it_adds(context):
    if context.checkpoint is None:
        context.save_checkpoint("begun")
        only_test_user().groups.add(Group.objects.create(name="late"))


@task(takes_context=True)
def names_its_steps_at_random(context):
    context.step(f"pay {uuid.uuid4()}", pay, 1)


@task(takes_context=True)
def deletes_what_it_reads(context):
    name = only_test_user().username
    User.objects.filter(last_name="prepared").delete()
    context.step("tell", str, name)


@task
def enqueues_on_commit():
    with transaction.atomic():
        _, is_new = Group.objects.get_or_create(name="order")
        if is_new:
            transaction.on_commit(lambda: follow_up.enqueue(1))


@task
def marks_in_the_cache_what_it_is_about_to_do():
    if caches["answers"].add("order done", value=True):
        new_user("of the order")


# Each with what the message has to say of it.
TWENTY = [
    (writes_the_second_row_only_with_the_first, "auth.User: 0 new rows instead of 1"),
    (writes_a_row_in_a_step, "auth.User: 2 new rows instead of 1"),
    (enqueues_behind_its_commit, "enqueued jobs: 0 new rows instead of 1"),
    (iterates_over_a_set, "a set has no order"),
    (knows_only_its_last_item, "of a loop done since its position was saved"),
    (
        counts_in_the_cache_beside_its_transaction,
        "cache entries in the durable table: other values in new rows",
    ),
    (writes_a_row_for_each_item, "auth.User: 3 new rows instead of 2"),
    (pays_in_a_transaction, "step 'pay 0' was called twice instead of once: it was paid twice."),
    (pays_outside_of_a_step, "pay() was called twice instead of once: it was paid twice."),
    (keeps_its_sum_in_memory, "result is"),
    (says_that_it_has_paid_before_it_pays, "step 'pay' was called never instead of once"),
    (writes_at_its_end, "auth.User: 2 new rows instead of 1"),
    (enqueues_before_a_step, "enqueued jobs: 2 new rows instead of 1"),
    (names_a_step_by_its_run, "step 'pay in run 2' was called once instead of never: it was paid twice."),
    (adds_to_a_row, "first_name is '++' instead of '+'"),
    (begins_before_it_adds, "auth.Group: 0 new rows instead of 1"),
    (names_its_steps_at_random, "other names in each run (step 'pay "),
    (deletes_what_it_reads, "The resumed run ended as "),
    (enqueues_on_commit, "enqueued jobs: 0 new rows instead of 1"),
    (marks_in_the_cache_what_it_is_about_to_do, "auth.User: 0 new rows instead of 1"),
]
