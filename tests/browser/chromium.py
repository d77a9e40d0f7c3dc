"""Chromium in a thread of its own. Playwright's own API runs an event loop in the thread that calls it, and Django then
refuses its database to that thread; what is made here passes each call on to the browser's thread."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

# The first one is Chromium without its windows, which takes half of the CPU.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Without a sandbox: root has none. Nothing is sent to anybody: the network is this machine's.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
]
# Debian switches it on, and without a graphics card it takes a fifth of the CPU.
FLAGS += ["--disable-gpu-rasterization", "--disable-software-rasterizer"]
# How far a part of the page is cut off or has to be scrolled to, sideways.
SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def executable() -> str | None:
    """The path of the machine's Chromium; None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Remote:
    """An object of Playwright's. Attributes and calls are made in the browser's thread."""

    def __init__(self, target: Any, thread: ThreadPoolExecutor) -> None:
        self.__dict__.update(_target=target, _thread=thread)

    def __getattr__(self, name: str) -> Any:
        return self._passed_on(getattr, self._target, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on(self._target, *args, **kwargs)

    def _passed_on(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_inner(each) for each in args)
        kwargs = {name: _inner(each) for name, each in kwargs.items()}
        return self._wrapped(self._thread.submit(function, *args, **kwargs).result())

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        ours = callable(value) or type(value).__module__.startswith("playwright")
        return Remote(value, self._thread) if ours else value


def _inner(value: Any) -> Any:
    return value.__dict__["_target"] if isinstance(value, Remote) else value


def follow(page: Remote, act: Remote, *args: Any) -> None:
    """Calls `act`, and waits for the page that this leads to."""

    def call(page: Any, act: Any) -> None:
        with page.expect_navigation():
            act(*args)

    page._passed_on(call, page, act)


class Chromium:
    """A context manager. `new_context()` and `expect()` are Playwright's."""

    def __enter__(self) -> Self:
        from playwright.sync_api import expect, sync_playwright

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._playwright = Remote(sync_playwright, self._thread)().start()
        self._browser = self._playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        self.expect = Remote(expect, self._thread)
        return self

    def new_context(self, **options: Any) -> Any:
        return self._browser.new_context(**options)

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()
        self._thread.shutdown()


def listen(page: Any, complaints: list[str]) -> None:
    """Add what the browser complains about: errors of scripts, violations of the CSP, resources that are not there. The
    icon of a site, which browsers ask for by themselves, is left out."""

    def hear(message: Any) -> None:
        if message.type == "error" and not message.location.get("url", "").endswith("/favicon.ico"):
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
