from uuid import uuid4

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.cache import cache, caches

from pgonly_django import task
from pgonly_django.sessions import SessionStore


@task
def do_nothing():
    pass


@task(takes_context=True)
def count_up(context, key, times):
    for _ in context.iterate(range(times)):
        cache.add(key, 0)
        cache.incr(key)
    return cache.get(key)


@task
async def count_up_async(key):
    await cache.aadd(key, 0)
    await sync_to_async(do_nothing.enqueue)()
    return await cache.aincr(key)


@task(backend="other")
def do_nothing_elsewhere():
    pass


@task(takes_context=True)
def writes_everywhere(context):
    for alias in caches.settings:
        caches[alias].set("written", "by a job")
    session = SessionStore()
    session["written"] = "by a job"
    session.save()
    context.step("write", Group.objects.using("other").count)
    Group.objects.using("other").get_or_create(name="by a job")
    context.save_checkpoint("written")
    return [caches[alias].get("stored") for alias in caches.settings]


@task
def writes_twice_elsewhere():
    User.objects.using("other").create(username=str(uuid4()))
