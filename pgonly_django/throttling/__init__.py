"""Throttles for Django REST framework and Django Ninja that are exact under parallel requests of all processes."""
