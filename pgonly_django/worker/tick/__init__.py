"""Jobs inside a web process, for a bounded time: what a request to the URL of `pgonly_tick_url` does."""
