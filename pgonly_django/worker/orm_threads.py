"""The threads in which sync_to_async() runs a job's ORM calls. Each job has one, with connections that are closed
behind it: the one that asgiref shares in a process would keep a broken connection."""

import contextvars
import threading

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

from pgonly_django.worker.connection_cleanup import clean_up_connections

LEAVE_SECONDS = 1.0


class SlotThread(threading.local):
    """A slot's thread. Its jobs start in a copy of `context`, so that below their asyncio.run() they have `place`."""

    def __init__(self) -> None:
        self.place = ThreadSensitiveContext()
        self.context = contextvars.Context()
        self.context.run(SyncToAsync.thread_sensitive_context.set, self.place)


def leave_thread_of(place: ThreadSensitiveContext, task: str) -> list[str]:
    """Clean up after a sync job, in the thread that its asyncio.run() had, if it had one. Returns the databases where
    it lost rows."""
    executor = SyncToAsync.context_to_thread_executor.pop(place, None)
    if executor is None:
        return []
    cleaned_up = executor.submit(_leave, task)
    executor.shutdown(wait=False)
    try:
        return cleaned_up.result(LEAVE_SECONDS)
    except TimeoutError:  # what the job has left running there is still busy
        return []


async def aleave_thread_of(place: ThreadSensitiveContext, task: str) -> list[str]:
    """The same after an async job, while `place` is entered."""
    return await sync_to_async(_leave)(task) if place in SyncToAsync.context_to_thread_executor else []


def _leave(task: str) -> list[str]:
    return clean_up_connections(task, closes=True)
