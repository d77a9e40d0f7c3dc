"""How the workers of a command are, over HTTP and by a file. See docs/how-to/monitoring.md."""
