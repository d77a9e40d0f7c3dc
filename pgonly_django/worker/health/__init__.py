"""How the workers of a command are, over HTTP and by a file. See docs/how-to/health_checks.md."""
