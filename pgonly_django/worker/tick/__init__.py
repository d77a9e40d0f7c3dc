"""Jobs inside a web process, for a bounded time: what a request to the URL of `pgonly_tick_url` does.

views.py     the request: who may, for how long, and the answer
token.py     the token in the URL
running.py   one tick of this process: its thread, its stop, its answer
loop.py      the worker that it runs
duties.py    the worker's duties, in its own thread and on its own connection
"""
