"""Several worker processes under one command: `runworker --processes N`. See docs/how-to/processes.md."""
