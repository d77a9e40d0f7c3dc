"""A module of tasks that starts a thread when it is imported, as clients of other services do."""

from __future__ import annotations

import threading

from pgonly_django import task

threading.Thread(target=threading.Event().wait, daemon=True).start()


@task(takes_context=True)
def resumes(context):
    return context.step("pay", int, 1) + context.step("pay again", int, 1)
