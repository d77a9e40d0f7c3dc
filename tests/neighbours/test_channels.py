"""Channels: websockets with our sessions, and jobs that are enqueued by a consumer."""

from __future__ import annotations

import asyncio
import json

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack, login
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client

from pgonly_django.models import Job, Session
from tests.jobs import add

pytestmark = pytest.mark.slow


class Consumer(AsyncWebsocketConsumer):
    async def receive(self, text_data):
        visits = self.scope["session"]["visits"] = self.scope["session"].get("visits", 0) + 1
        await self.scope["session"].asave()
        await cache.aset("colour", text_data)
        result = await add.aenqueue(1, b=2)
        answer = [self.scope["user"].get_username(), visits, await cache.aget("colour"), str(result.id)]
        await self.send(json.dumps(answer))


class LoginConsumer(AsyncWebsocketConsumer):
    async def receive(self, text_data):
        await login(
            self.scope,
            await User.objects.aget(username=text_data),
            "django.contrib.auth.backends.ModelBackend",
        )
        await self.scope["session"].asave()
        await self.send(self.scope["session"].session_key)


def said(consumer, browser, *texts):
    """What it answers to each, in the session of the browser."""

    async def talk():
        cookies = "; ".join(f"{name}={cookie.value}" for name, cookie in browser.cookies.items())
        scope = {"type": "websocket", "path": "/", "query_string": b"", "subprotocols": []}
        scope["headers"] = [(b"cookie", cookies.encode())]
        socket = ApplicationCommunicator(AuthMiddlewareStack(consumer.as_asgi()), scope)
        await socket.send_input({"type": "websocket.connect"})
        assert (await socket.receive_output(10))["type"] == "websocket.accept"
        answers = []
        for text in texts:
            await socket.send_input({"type": "websocket.receive", "text": text})
            answers.append((await socket.receive_output(10))["text"])
        await socket.send_input({"type": "websocket.disconnect", "code": 1000})
        await socket.wait(10)
        return answers

    return asyncio.run(talk())


def browser_of(user):
    browser = Client()
    browser.force_login(user)
    return browser


def test_a_consumer_has_the_session_the_cache_and_jobs(work):
    browser = browser_of(User.objects.create_user("ann"))
    answers = [json.loads(answer) for answer in said(Consumer, browser, "red", "blue")]
    assert [answer[:3] for answer in answers] == [["ann", 1, "red"], ["ann", 2, "blue"]]
    assert browser.session["visits"] == 2
    work()
    assert {job.state for job in Job.objects.filter(pk__in=[answer[3] for answer in answers])} == {
        "succeeded"
    }


def test_a_login_over_a_websocket_makes_a_session_of_the_user(transactional_db):
    ann = User.objects.create_user("ann")
    (key,) = said(LoginConsumer, Client(), "ann")
    assert [session.user_id for session in Session.objects.all()] == [str(ann.pk)]
    browser = Client()
    browser.cookies["sessionid"] = key
    assert browser.session["_auth_user_id"] == str(ann.pk)
