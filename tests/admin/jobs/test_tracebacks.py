from __future__ import annotations

import ast
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgonly_django.admin.jobs.timeline import TracebackPart as Part
from pgonly_django.admin.jobs.timeline import parts_of, without_messages

OWN = '  File "/srv/shop/tasks.py", line 3, in charge\n    client.send()\n    ~~~~~^^\n'
LIBRARY = '  File "/v/lib/python3.13/site-packages/httpx/c.py", line 9, in send\n    raise x\n'
HEAD = "Traceback (most recent call last):\n"
AGAIN = "\nDuring handling of the above exception, another exception occurred:\n\n"
REPEATED = OWN + "  [Previous line repeated 990 more times]\n"


@pytest.mark.parametrize(
    "path",
    [
        "/v/lib/python3.13/site-packages/x.py", "/usr/lib/python3/dist-packages/x.py", "/usr/lib/python3.13/json/x.py",
        "/src/pgonly_django/context/context.py", "<frozen importlib._bootstrap>", r"C:\\Python\\Lib\\json\\x.py",
    ],
)  # fmt: skip
def test_frames_of_libraries_are_folded(path):
    frame = f'  File "{path}", line 1, in f\n'
    assert parts_of(HEAD + OWN + frame + "E: x")[1] == Part(frame, 1)


def test_neighbouring_frames_are_folded_together():
    parts = parts_of(HEAD + REPEATED + LIBRARY * 3 + OWN + "E: x\n")
    assert parts == [Part(HEAD + REPEATED), Part(LIBRARY * 3, 3), Part(OWN + "E: x\n")]


def test_where_all_frames_are_of_libraries_none_is_folded():
    assert parts_of(HEAD + LIBRARY + "E: x") == [Part(HEAD + LIBRARY + "E: x")]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from([HEAD, OWN, LIBRARY, REPEATED, "E: x\n", "\n", "  | E\n", "é\u2028\n"]) | st.text()
    )
)
def test_the_parts_are_the_whole_text(pieces):
    text = "".join(pieces)
    assert "".join(part.text for part in parts_of(text)) == text


def test_messages_are_left_out_and_frames_stay():
    text = f"{HEAD}{OWN}E: secret\nmore secret\n{AGAIN}{HEAD}{LIBRARY}F: secret"
    shown = without_messages(text)
    assert "secret" not in shown
    assert shown.count("Traceback") == 2
    assert "During handling" in shown
    assert "client.send()" in shown
    assert "httpx" in shown


def test_the_text_that_a_syntax_error_quotes_is_left_out():
    argument = "secret " * 2
    try:
        ast.literal_eval(argument)
    except SyntaxError as error:
        text = "".join(traceback.format_exception(error))
    assert argument.strip() in text
    shown = without_messages(text)
    assert "secret" not in shown
    assert "literal_eval" in shown


def test_messages_of_an_exception_group_are_left_out():
    def fail():
        raise ExceptionGroup("secret", [ValueError("secret"), KeyError("secret")])

    try:
        fail()
    except ExceptionGroup as error:
        shown = without_messages("".join(traceback.format_exception(error)))
    assert "in fail" in shown
    assert shown.replace('"secret"', "").count("secret") == 0
