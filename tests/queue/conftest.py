from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections


@pytest.fixture
def beside():
    """Calls a function in another thread, with a connection of its own: a future."""
    with ThreadPoolExecutor() as threads:

        def start(call, *args, **kwargs):
            def run():
                try:
                    return call(*args, **kwargs)
                finally:
                    connections.close_all()

            return threads.submit(run)

        yield start
