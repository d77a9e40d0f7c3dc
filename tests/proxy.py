"""A network between the worker and its database, on which a request or an answer may get lost."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self

READY_FOR_QUERY = b"Z\0\0\0\5I"  # of a server that is in no transaction


class LosingProxy:
    """Forwards TCP connections to a PostgreSQL on a Unix socket, while it is entered.

    The first request with `lose_request` in it is dropped, and that connection closed. After the first one with
    `lose_answer_to` in it, the answer that says that its transaction is over is waited for and dropped, and that
    connection closed. Both on connections only whose startup packet contains `of`.
    """

    def __init__(self, target: str, of: bytes) -> None:
        self.target, self.of = target, of
        self.lose_request: bytes | None = None
        self.lose_answer_to: bytes | None = None
        self.lost = threading.Event()
        self.port = 0
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Self:
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, function, *arguments) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self._start(self._forward, client)

    def _forward(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
            server.connect(self.target)
            other = {client: server, server: client}
            for end in other:
                selector.register(end, selectors.EVENT_READ)
            is_watched = loses_next = False
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    if key.fileobj is server and loses_next and data.endswith(READY_FOR_QUERY):
                        self.lose_answer_to = None
                        self.lost.set()
                        return
                    is_watched = is_watched or self.of in data
                    if is_watched and key.fileobj is client:
                        if self.lose_request is not None and self.lose_request in data:
                            self.lose_request = None
                            self.lost.set()
                            return
                        if self.lose_answer_to is not None and self.lose_answer_to in data:
                            loses_next = True
                    other[key.fileobj].sendall(data)
