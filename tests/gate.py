from __future__ import annotations

import threading


class Gate:
    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()


GATE = Gate()
