"""A job's attempts and their tracebacks."""

from __future__ import annotations

import ast
import re
import traceback
from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgonly_django.admin.jobs.attempts import TracebackPart, parts_of, without_messages
from pgonly_django.models import State
from tests.admin.conftest import make_job
from tests.admin.jobs.test_page import LIBRARY, NOON, OWN, TRACEBACK, attempt, text_of

pytestmark = pytest.mark.django_db

HEAD = "Traceback (most recent call last):\n"
TIMES = "\N{MULTIPLICATION SIGN}"
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
    assert parts_of(HEAD + OWN + frame + "E: x")[1] == TracebackPart(frame, 1)


def test_neighbouring_frames_are_folded_together():
    parts = parts_of(HEAD + REPEATED + LIBRARY * 3 + OWN + "E: x\n")
    assert parts == [
        TracebackPart(HEAD + REPEATED),
        TracebackPart(LIBRARY * 3, 3),
        TracebackPart(OWN + "E: x\n"),
    ]


def test_where_all_frames_are_of_libraries_none_is_folded():
    assert parts_of(HEAD + LIBRARY + "E: x") == [TracebackPart(HEAD + LIBRARY + "E: x")]


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


def test_every_attempt_has_its_traceback_and_the_newest_is_open(page):
    errors = [
        attempt("failed", 0, exception="shop.errors.Late", message="first", traceback="Traceback one"),
        attempt("crashed", 5, reason="Its worker died."),
        attempt("failed", 9, exception="builtins.OSError", message="second", traceback="Traceback two"),
    ]
    html = page(make_job(State.FAILED, errors=errors))
    newest, oldest = re.findall(r'<details class="pgonly-attempt".*?</details>', html, re.DOTALL)
    assert "Traceback two" in newest
    assert "OSError: second" in newest
    assert " open>" in newest
    assert "Traceback one" in oldest
    assert "Late: first" in oldest
    assert " open>" not in oldest
    assert "Its worker died." in html


def test_an_attempt_with_an_exception_and_a_reason_shows_both(page):
    error = attempt("timed out", 0, exception="x.JobTimedOut", message="", reason="Ran longer than 5 s.")
    other = attempt("failed", 0, exception="x.Odd", message="why", reason="Its backoff raised.")
    text = text_of(page(make_job(State.FAILED, errors=[error, other])))
    assert "Timed out run 1 JobTimedOut: Ran longer than 5 s." in text
    assert "Failed run 2 Odd: why Its backoff raised." in text


def test_log_lines_stand_with_their_time_the_newest_first(page):
    def line(seconds, text):
        return {"at": (NOON + timedelta(seconds=seconds)).isoformat(), "text": text}

    job = make_job(State.RUNNING, log=[line(7, "half way"), line(9, "nearly")])
    assert "2026-01-05 06:00:09 nearly 2026-01-05 06:00:07 half way" in text_of(page(job))


def test_runs_have_numbers_since_deaths_and_stops_cost_no_attempt(page):
    at = timezone.now().isoformat()
    run = {"outcome": "released", "attempt": 1, "started_at": at, "finished_at": at}
    decision = {"outcome": "held", "attempt": 1, "finished_at": at}
    runs = [{**run, "reason": str(n)} for n in range(9)]
    job = make_job(State.RUNNING, attempt=1, lease_epoch=13, errors=[*runs[:4], decision, *runs[4:]])
    text = text_of(page(job))
    for number in range(4, 14):
        assert f"run {number}, attempt 1" in text
    assert "run 3," not in text


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ({"outcome": "snoozed", "in_a_row": 40}, ["run 1, attempt 1", "runs 2 to 41"]),
        ({"outcome": "postponed"}, ["run 1, attempt 1"]),  # it ran nothing
    ],
)
def test_runs_that_are_kept_as_one_entry_are_counted_as_so_many(page, entry, shown):
    at = timezone.now().isoformat()
    times = {"started_at": at, "finished_at": at, "attempt": 1}
    failed = {"outcome": "failed", **times}
    job = make_job(State.SCHEDULED, lease_epoch=41, errors=[failed, {**entry, **times}])
    assert re.findall(r"runs? \d+, attempt 1|runs \d+ to \d+", text_of(page(job))) == shown


def test_a_claim_that_was_given_back_before_the_job_ran_is_no_run(page):
    assert "run 1, attempt 1" in text_of(page(make_job(State.RUNNING, attempt=1, lease_epoch=2)))


def test_a_traceback_shows_the_frames_of_the_project_and_folds_the_others(page):
    html = page(make_job(State.FAILED, errors=[attempt("failed", 0, traceback=TRACEBACK)]))
    (folded,) = re.findall(r'<details id="traceback-1-\d">(.*?)</details>', html, re.DOTALL)
    assert "2 frames of libraries" in folded
    assert folded.count("httpx") == 2
    assert "shop" not in folded
    assert "card 4242" in html
    assert 'data-copy="traceback-1"' in html


def test_equal_errors_are_folded_and_each_keeps_its_traceback(page):
    late = {"exception": "shop.Late", "message": "429 Too Many Requests"}
    errors = [
        attempt("failed", 0, exception="shop.Refused", traceback="Traceback 0"),
        *(attempt("failed", 5 + n, traceback=f"Traceback {n + 1}", **late) for n in range(5)),
    ]
    html = page(make_job(State.FAILED, errors=errors, lease_epoch=6))
    card = html[html.index('data-live="attempts"') :]
    assert f"Failed 5 {TIMES} run 6 Late: 429 Too Many Requests" in text_of(card)
    assert "4 earlier runs that ended alike" in text_of(card)
    assert re.findall(r"Traceback \d", card) == [f"Traceback {n}" for n in (5, 4, 3, 2, 1, 0)]
    assert card.count(" open>") == 1


def test_errors_of_different_steps_are_not_equal_and_name_their_step(page):
    errors = [attempt("failed", n, exception="shop.Late", step=f"page <{n}>") for n in range(2)]
    text = text_of(page(make_job(State.FAILED, errors=errors)))
    assert "Late in the step page <0>" in text
    assert "Late in the step page <1>" in text
    assert "ended alike" not in text
