from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from pgonly_django.tasks.registry import import_task
from tests.tasks.calls import add


def test_threads_may_look_for_a_task_at_the_same_time():
    """Two threads that invalidate the caches of imports can meet: a KeyError or a RuntimeError on CPython 3.11."""
    gone = dict.fromkeys(f"/no such path/{number}" for number in range(50))  # such entries are removed

    def find(_number):
        sys.path_importer_cache.update(gone)
        return import_task("tests.tasks.calls.add")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(find, range(500)))
    finally:
        sys.setswitchinterval(before)
    assert set(map(id, found)) == {id(add)}
