from __future__ import annotations

import sys

from pgonly_django.compat import TaskResultStatus, task_enqueued, task_finished, task_started
from pgonly_django.tasks import PostgresBackend
from tests import jobs


def test_receivers_of_task_finished_find_the_exception_where_django_promises_it(run_jobs):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append(sys.exc_info()[1])

    task_finished.connect(receiver)
    try:
        jobs.fail.using(max_attempts=1).enqueue("broken")
        jobs.add.enqueue(1)
        run_jobs()
    finally:
        task_finished.disconnect(receiver)
    assert sorted(map(repr, seen)) == ["None", "ValueError('broken')"]


def test_the_signals_come_with_the_backend_as_sender_and_the_right_status(work):
    seen = []

    def listen(name):
        def receiver(sender, task_result, **_):
            seen.append((name, sender, task_result.status, task_result.id))

        return receiver

    receivers = {signal: listen(name) for signal, name in
                 ((task_enqueued, "enqueued"), (task_started, "started"), (task_finished, "finished"))}  # fmt: skip
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    try:
        result = jobs.add.enqueue(1)
        work()
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)
    assert seen == [
        ("enqueued", PostgresBackend, TaskResultStatus.READY, result.id),
        ("started", PostgresBackend, TaskResultStatus.RUNNING, result.id),
        ("finished", PostgresBackend, TaskResultStatus.SUCCESSFUL, result.id),
    ]


def test_a_failed_job_is_announced_once_with_its_errors(run_jobs):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append((task_result.status, [error.exception_class for error in task_result.errors]))

    task_finished.connect(receiver)
    try:
        jobs.fail.enqueue()
        run_jobs()
    finally:
        task_finished.disconnect(receiver)
    assert seen == [(TaskResultStatus.FAILED, [ValueError] * 3)]
