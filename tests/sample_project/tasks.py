from asgiref.sync import sync_to_async
from django.core.cache import cache

from pgonly_django import task


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


@task(max_attempts=1)
def fail():
    raise ValueError("not today")
