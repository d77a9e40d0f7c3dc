"""Several worker processes of one command, `runworker --processes N`. See docs/how-to/deploy.md#several-processes."""
