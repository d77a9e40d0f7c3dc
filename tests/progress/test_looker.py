"""One look for all streams of a process: its statements, its connection, and what ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.test import RequestFactory

from pgonly_django.progress import looker, stream
from pgonly_django.progress.look import Wanted
from pgonly_django.progress.tokens import Grant
from tests.progress.conftest import threads
from tests.queue.rows import make_running, make_worker
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
STREAMS = 10


def run_streams(jobs, until):
    """A stream for each job; `until` is awaited when all have said something. Returns how many have ended by then."""

    async def run():
        request = RequestFactory().get("/")
        streams = [stream.stream(request, [Wanted(Grant("default", str(job.pk)))], "user 1") for job in jobs]
        await asyncio.gather(*(anext(each) for each in streams))
        rest = [asyncio.ensure_future(anext(each, None)) for each in streams]
        await until()
        ended = sum(each.done() and each.result() is None for each in rest)
        for each in rest:
            each.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for each in streams:
            await each.aclose()
        return ended

    return async_to_sync(run)()


def answer_of(question):
    _, answer = looker.ask("default", question)
    return answer.result(10)


async def until(condition):
    await sync_to_async(wait_for, thread_sensitive=False)(condition)


@pytest.mark.slow
def test_all_streams_share_a_connection_and_a_statement_for_each_look(statements, monkeypatch):
    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.5)
    jobs = [make_running(make_worker().pk) for _ in range(STREAMS)]
    statements.clear()

    def looks():
        return [
            sql for _, sql in statements if sql and 'FROM "pgonly_job"' in sql.replace('"job_queue".', "")
        ]

    async def looked():
        statements_before = len(looks())
        await until(lambda: len(looks()) > statements_before + 3)

    assert run_streams(jobs, looked) == 0
    assert {name for name, _ in statements} == {"pgonly-progress"}
    assert [sql for _, sql in statements].count(None) == 1
    assert max(sql.count("%s") for sql in looks()) >= STREAMS  # and not a statement for each stream
    wait_for(lambda: not threads())  # and its connection is closed


@pytest.mark.slow
def test_a_look_that_fails_ends_the_streams_with_one_line_in_the_log(caplog):
    jobs = [make_running(make_worker().pk) for _ in range(STREAMS)]

    async def terminated():
        await sync_to_async(terminate_connection, thread_sensitive=False)()
        await until(lambda: "could not be read" in caplog.text)
        await asyncio.sleep(stream.LOOK_SECONDS)

    with caplog.at_level(logging.WARNING, "pgonly_django.progress"):
        assert run_streams(jobs, terminated) == STREAMS
    assert caplog.text.count("could not be read") == 1
    assert run_streams(jobs, lambda: asyncio.sleep(0)) == 0


def terminate_connection():
    pid = answer_of(lambda: connection.connection.info.backend_pid)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    connection.close()


def test_a_look_that_does_not_return_ends_its_streams_and_later_ones_do_not_wait_for_it(monkeypatch):
    job, is_stuck, goes_on = make_running(make_worker().pk), threading.Event(), threading.Event()
    request, wanted = RequestFactory().get("/"), [Wanted(Grant("default", str(job.pk)))]

    async def first_event():
        return await anext(stream.stream(request, wanted, "user 1"), None)

    looker.ask("default", lambda: is_stuck.set() or goes_on.wait(30))
    assert is_stuck.wait(10)
    monkeypatch.setattr(stream, "ANSWER_SECONDS", 0.3)
    assert async_to_sync(first_event)() is None
    monkeypatch.setattr(stream, "ANSWER_SECONDS", 20)
    assert b'"state": "running"' in async_to_sync(first_event)()
    goes_on.set()
    wait_for(lambda: not threads())


def test_a_question_that_hung_gives_up_the_look_that_it_asked_and_no_later_one():
    is_stuck, goes_on = threading.Event(), threading.Event()
    hung, _ = looker.ask("default", lambda: is_stuck.set() or goes_on.wait(30))
    assert is_stuck.wait(10)
    assert looker.ask("default", threading.current_thread)[0] is hung
    looker.give_up(hung)
    later, _ = looker.ask("default", threading.current_thread)
    looker.give_up(hung)
    assert later is not hung
    assert looker.ask("default", threading.current_thread)[0] is later
    goes_on.set()


def test_a_look_whose_thread_could_not_start_is_asked_nothing_later(monkeypatch):
    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(looker.Looker, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            looker.ask("default", threading.current_thread)
    assert answer_of(threading.current_thread).name == "pgonly-progress"


def test_a_forked_process_has_a_look_of_its_own():
    before = answer_of(threading.current_thread)
    pid = os.fork()
    if not pid:
        after = answer_of(threading.current_thread)
        os._exit(0 if after is not before else 1)
    assert os.waitpid(pid, 0)[1] == 0
