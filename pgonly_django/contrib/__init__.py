"""Integrations with libraries that call other services. Each is a module of its own, and optional."""
