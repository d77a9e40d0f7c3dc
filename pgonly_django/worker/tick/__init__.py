"""Jobs inside a web process, for a bounded time: the work of a request to the URL of `pgonly_tick_url`."""
