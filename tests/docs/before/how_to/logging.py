"""A function that logs which job it works for."""

from pgonly_django import task as declare
from pgonly_django.current_job import current_job
from pgonly_django.testing import drain

paper, seen = 17, []


def ask_the_model(paper):
    seen.append((paper, current_job.get()))


@declare
def in_a_thread():
    import contextvars
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        pool.submit(contextvars.copy_context().run, ask_the_model, 18)


def after(page):
    assert seen == [(17, None)]
    in_a_thread.enqueue()
    drain()
    assert seen[1][0] == 18
    assert seen[1][1].job.task.endswith(".in_a_thread")
