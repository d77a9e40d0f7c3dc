from django.core.cache import cache
from django.http import HttpResponse
from django.urls import path


def count(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(cache.get_or_set("visits", 0) + cache.incr("visits"))


async def count_async(request):
    await cache.aadd("visits", 0)
    return HttpResponse(await cache.aincr("visits"))


def unsaved(request):
    return HttpResponse(cache.get("visits", "none"))


urlpatterns = [
    path("count/", count),
    path("count-async/", count_async),
    path("unsaved/", unsaved),
]
