"""Forgets everything that it knows."""


def forget_everything():
    globals().clear()
    raise ValueError("what was it?")
