"""The runs of a job, the gaps between them and its steps as bars, on its page."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job, State, Step
from tests.admin.conftest import make_job, page_of
from tests.admin.jobs.test_page import EVIL, NOON, attempt, text_of
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
TIMES = "\N{MULTIPLICATION SIGN}"
RECT = re.compile(r'<rect class="pgonly-time pgonly-(\S+)" x="(\S+)%" width="(\S+)%"')


def rows(html):
    """What stands in each row: its text, and its bars as (kind, x, width) in percent."""
    items = re.findall(r'<li data-key="[^"]*">(.*?)</li>', html, re.DOTALL)
    return [
        (text_of(item).strip(), [(kind, float(x), float(width)) for kind, x, width in RECT.findall(item)])
        for item in items
    ]


def texts(html):
    return [text for text, _bars in rows(html)]


def sums(html):
    return text_of(re.search(r'<ul class="pgonly-sums">.*?</ul>', html, re.DOTALL)[0]).strip()


def make_done(minutes=20, *errors, **columns):
    """Enqueued at noon; its last run took the second half of all the time. With errors its first start was 12:01."""
    end = NOON + minutes * MINUTE
    began = NOON + minutes * MINUTE / 2
    facts = {"started_at": NOON + MINUTE if errors else began, "attempted_at": began, "finished_at": end}
    facts |= {"enqueued_at": NOON, "attempt": len(errors) + 1, "lease_epoch": len(errors) + 1}
    return make_job(State.SUCCEEDED, errors=list(errors), **(facts | columns))


def test_runs_and_the_gaps_between_them_are_bars_on_one_scale(page):
    html = page(make_done(20, attempt("failed", 1, attempt=1, exception="shop.Late", message="no")))
    assert rows(html) == [
        (
            "Failed run 1, attempt 1 waited 1 min Late: no Start 1 min Took 1 min 30 s",
            [("wait", 0, 5), ("failed", 5, 7.5)],
        ),
        (
            "Succeeded run 2, attempt 2 waited 7 min 30 s Start 10 min Took 10 min",
            [("wait", 12.5, 37.5), ("succeeded", 50, 50)],
        ),
    ]
    assert re.findall(r"<text [^>]*>(.*?)</text>", html) == ["0 s", "10 min", "20 min"]


def test_the_time_of_runs_of_waits_and_of_all_together_is_told(page):
    assert sums(page(make_done(20, attempt("failed", 1)))) == (
        "11 min 30 s running 8 min 30 s waiting 19 min from the first start to the end 10 min in the last run"
    )
    assert sums(page(make_done(20, started_at=NOON + 10 * MINUTE))) == "10 min running 10 min waiting"
    waits = make_job(State.SCHEDULED, enqueued_at=NOON, started_at=NOON, run_at=timezone.now() + MINUTE)
    assert "in the last run" not in sums(page(waits))


def test_a_first_wait_longer_than_all_the_rest_is_told_and_leaves_the_scale_to_the_runs(page):
    job = make_done(20, started_at=NOON + 16 * MINUTE, attempted_at=NOON + 16 * MINUTE)
    (row,) = rows(page(job))
    assert row == ("Succeeded run 1, attempt 1 waited 16 min Start 0 s Took 4 min", [("succeeded", 0, 100)])


def test_the_bar_of_a_running_job_is_open_to_now(page):
    began = timezone.now() - MINUTE
    times = {"enqueued_at": began, "started_at": began, "attempted_at": began}
    html = page(make_job(State.RUNNING, attempt=1, lease_epoch=1, **times))
    ((text, bars),) = rows(html)
    assert text.startswith("Running run 1, attempt 1 Start 0 s Took 1 min")
    assert bars == [("running", 0, 100)]
    again = make_job(
        State.RUNNING, errors=[attempt("crashed", 0)], **(times | {"attempted_at": timezone.now()})
    )
    assert "since the first start" in sums(page(again))


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.HELD])
def test_a_job_that_never_started_has_waited_since_its_enqueue(page, state):
    ((text, bars),) = rows(page(make_job(state, enqueued_at=timezone.now() - 5 * MINUTE)))
    assert text.startswith(f"{state.label} waited 5 min")
    assert bars == [("wait", 0, 100)]


def test_a_job_that_was_cancelled_before_it_started_only_waited(page):
    job = make_job(State.CANCELLED, enqueued_at=NOON, finished_at=NOON + 3 * MINUTE)
    assert rows(page(job)) == [("Cancelled waited 3 min Start 0 s", [("wait", 0, 100)])]


def test_what_a_person_decided_between_two_runs_is_a_point(page):
    held = {"outcome": "held", "reason": "Held by anna.", "finished_at": (NOON + 5 * MINUTE).isoformat()}
    middle = rows(page(make_done(20, attempt("released", 1), held)))[1]
    assert middle == (
        "Held waited 2 min 30 s Held by anna. Start 5 min",
        [("wait", 12.5, 12.5), ("held", 25, 0.4)],
    )


def test_equal_runs_are_one_row_with_a_bar_each(page):
    late = {"exception": "shop.Late", "message": "429 Too Many Requests"}
    errors = [attempt("failed", 1 + n * 2, attempt=n + 1, **late) for n in range(5)]
    folded, last = rows(page(make_done(24, *errors)))
    assert folded[0] == (
        f"Failed 5 {TIMES} runs 1 to 5 waited 3 min Late: 429 Too Many Requests Start 1 min Took 7 min 30 s"
    )
    assert [kind for kind, _x, _width in folded[1]] == ["wait", "failed"] * 5
    assert "run 6, attempt 6" in last[0]


def test_of_500_runs_those_that_are_no_longer_recorded_are_one_row(page):
    errors = [attempt("failed", 60 + n, message=str(n)) for n in range(10)]
    html = page(make_done(160, *errors, lease_epoch=500))
    shown = rows(html)
    assert len(shown) == 12
    assert shown[0] == (
        "489 earlier runs waited 1 min no longer recorded Start 1 min Took 59 min",
        [("wait", 0, 0.62), ("lost", 0.62, 36.88)],
    )
    assert "run 490" in shown[1][0]
    assert "59 min in runs that are no longer recorded" in sums(html)


def test_a_microsecond_between_the_two_times_of_a_claim_is_no_earlier_run(page):
    began = NOON + MINUTE - timedelta(microseconds=1)
    html = page(make_done(20, attempt("failed", 1), started_at=began))
    first, _last = texts(html)
    assert first.startswith("Failed run 1")
    assert "waited 1 min" in first
    assert "no longer recorded" not in html


def test_the_time_in_which_a_job_waited_for_an_event_is_told_as_waiting(page):
    """Such a run leaves no entry. The step says what it waited for."""
    job = make_done(20, started_at=NOON + MINUTE, lease_epoch=2)
    began = NOON + 2 * MINUTE
    Step.objects.create(job=job, name="event k", started_at=began, finished_at=NOON + 10 * MINUTE)
    html = page(job)
    assert rows(html) == [
        (
            "1 earlier run waited 1 min then it waited Start 1 min Took 9 min",
            [("wait", 0, 5), ("wait", 5, 45)],
        ),
        ("event k Start 2 min Took 8 min null", [("done", 10, 40)]),
        ("Succeeded run 2, attempt 1 Start 10 min Took 10 min", [("succeeded", 50, 50)]),
    ]
    assert sums(html) == "10 min running 10 min waiting"


@pytest.mark.parametrize(("runs", "row"), [(1, ("running", "")), (2, ("wait", "s then it waited"))])
def test_a_job_that_waits_for_an_event_has_a_bar_of_this_wait(page, runs, row):
    job, (kind, note) = make_waiting(since=9 * MINUTE).job, row
    began = timezone.now() - 10 * MINUTE
    Job.objects.filter(pk=job.pk).update(enqueued_at=began, started_at=began, lease_epoch=runs)
    job.waits.update(lease_epoch=runs)
    job.refresh_from_db()
    (earlier, bars), (waits, its_bars) = rows(page(job))
    assert earlier.startswith(f"{runs} earlier run{note} Start 0 s Took")
    assert [each[0] for each in (*bars, *its_bars)] == [kind, "wait"]
    assert waits.startswith("Scheduled waited 9 min")


def test_the_time_of_runs_that_share_an_entry_is_not_told_as_waiting(page):
    snoozed = attempt("snoozed", 5, in_a_row=40)
    first, _last = rows(page(make_done(20, snoozed, lease_epoch=41, started_at=NOON + 5 * MINUTE)))
    assert first[0].startswith(f"Snoozed 40 {TIMES} runs 1 to 40")
    assert [kind for kind, _x, _width in first[1]] == ["lost", "scheduled"]


def test_steps_stand_below_their_run_with_start_time_and_cost(page):
    job = make_done(20, attempt("failed", 1))
    for name, at in (("late", 15), ("early", 2)):
        began, ended = NOON + at * MINUTE, NOON + (at + 1) * MINUTE
        Step.objects.create(
            job=job, name=name + EVIL, started_at=began, finished_at=ended, usd="0.02", tokens_in=900
        )
    html = page(job)
    assert EVIL not in html
    shown = rows(html)
    assert [text.split()[0] for text, _bars in shown] == [
        "Failed",
        f"early{EVIL}",
        "Succeeded",
        f"late{EVIL}",
    ]
    assert shown[1] == (
        f"early{EVIL} 900 tokens in, 0 out Start 2 min Took 1 min Cost $0.02 null",
        [("done", 10, 5)],
    )


def test_a_step_without_a_start_is_a_point_where_it_was_stored(page):
    job = make_done(20)
    Step.objects.create(job=job, name="ask", finished_at=NOON + 15 * MINUTE)
    assert rows(page(job))[1] == ("ask Start 15 min null", [("done", 75, 0.4)])


def test_the_step_that_raised_is_red(page):
    began = (NOON + MINUTE + timedelta(seconds=30)).isoformat()
    raised = attempt("failed", 1, attempt=1, step="ask", step_started_at=began)
    assert rows(page(make_done(20, raised)))[1] == (
        "Raised ask Start 1 min 30 s Took 1 min",
        [("failed", 7.5, 5)],
    )


def test_a_job_of_many_steps_has_a_bounded_page(page):
    job = make_done(20)
    Step.objects.bulk_create(
        Step(job=job, name=f"page {n}", started_at=NOON, finished_at=NOON + n * timedelta(seconds=0.1))
        for n in range(10_000)
    )
    html = page(job)
    assert len(rows(html)) == 2
    assert html.count("<summary") == 52  # the row, and the newest 50; and the menu
    assert html.count("<li>\n") <= 51
    assert "Steps: 10,000. The newest 50 can be opened." in text_of(html)
    assert len(html) < 150_000


def make_steps(job, *names, seconds=1.0, cost=None):
    for number, name in enumerate(names):
        began = NOON + timedelta(seconds=600 + number * seconds)
        ended = began + timedelta(seconds=seconds)
        Step.objects.create(job=job, name=name, started_at=began, finished_at=ended, usd=cost, result=number)


def test_steps_that_differ_in_numbers_alone_are_one_row_with_a_histogram(page):
    job = make_done(20)
    make_steps(job, *(f"paper {n}" for n in range(120)), cost="0.01")
    make_steps(job, *(f"few {n}" for n in range(5)), seconds=2.0)
    html = page(job)
    shown = rows(html)
    (text, bars) = next(each for each in shown if "120" in each[0])
    assert text.startswith(
        f"120 {TIMES} paper 0 to paper 119 1 s to 1 s, p50 1 s Start 10 min Took 2 min Cost $1.20"
    )
    assert [kind for kind, _x, _width in bars[:5]] == ["done"] * 5
    assert sum("few" in text for text, _bars in shown) == 5
    assert "Steps: 125." in text_of(html)


def test_steps_that_take_turns_are_a_row_for_each_kind(page):
    job = make_done(20)
    make_steps(job, *(f"{kind} {n}" for n in range(8) for kind in ("ask", "check")))
    shown = [text for text, _bars in rows(page(job)) if TIMES in text]
    assert [re.match(rf"8 {TIMES} (\w+ 0 to \w+ 7)", text)[1] for text in shown] == [
        "ask 0 to ask 7",
        "check 0 to check 7",
    ]


@pytest.mark.parametrize("count", [9, 60])
def test_without_the_permission_the_costs_of_steps_that_are_alike_are_not_told(client, person, count):
    job = make_done(20)
    make_steps(job, *(f"paper {n}" for n in range(count)), cost="0.01")
    person("view_job")
    assert "$" not in client.get(page_of(job)).text


def test_times_that_contradict_each_other_stay_on_the_scale(page):
    wrong = attempt("failed", -600, started_at=(NOON + 900 * MINUTE).isoformat())
    for _text, bars in rows(page(make_done(20, wrong, attempt("crashed", 100_000)))):
        assert all(0 <= x <= x + width <= 100.01 for _kind, x, width in bars)


def test_more_steps_than_a_page_takes_are_counted(page):
    job = make_done(20)
    make_steps(job, *(f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(130)))
    html = page(job)
    assert "30 older steps are not shown." in text_of(html)
    assert len(rows(html)) == 101
