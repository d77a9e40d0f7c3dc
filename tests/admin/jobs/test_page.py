"""A job's page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from pgonly_django.models import Checkpoint, CostEntry, Job, JobOutput, State, Step
from pgonly_django.queue.values import NESTING_LIMIT
from tests.admin.conftest import make_job, page_of
from tests.jobs import nest

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def attempt(outcome, minutes, **fields):
    started = NOON + timedelta(minutes=minutes)
    finished = started + timedelta(seconds=90)
    times = {"started_at": started.isoformat(), "finished_at": finished.isoformat()}
    return {"outcome": outcome, "worker": "web-1", **times, **fields}


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_arguments_metadata_and_result_are_pretty_json(page):
    values = {"args": ["日本"], "kwargs": {"n": {"deep": [1]}}, "result": {"papers": 3}}
    text = unescape(
        page(make_job(State.SUCCEEDED, **values, metadata={"tenant": "acme", "api_token": "sk-1"}))
    )
    assert '[\n  "日本"\n]' in text
    assert '{\n  "n": {\n    "deep": [\n      1\n    ]\n  }\n}' in text
    assert '{\n  "papers": 3\n}' in text
    assert '{\n  "tenant": "acme",\n  "api_token": "••••••"\n}' in text
    assert "sk-1" not in text
    assert "Metadata" not in text_of(page(make_job()))


def test_the_deepest_arguments_are_shown(page):
    assert "Positional arguments" in page(make_job(State.READY, args=nest(NESTING_LIMIT)))


def test_a_result_of_none_is_shown_as_null_once_the_job_succeeded(page):
    assert "null</pre>" in page(make_job(State.SUCCEEDED, result=None))
    assert "None yet." in page(make_job(State.RUNNING))


def test_a_running_job_shows_percentage_speed_and_the_time_that_is_left(page):
    times = {"attempted_at": timezone.now() - timedelta(minutes=10), "reported_at": timezone.now()}
    html = page(make_job(State.RUNNING, progress={"done": 200, "total": 1000}, **times))
    assert re.search(r"20 % 200 / 1,000 20 per minute (40 min|39 min 5\d s) left", text_of(html))
    slow = page(make_job(State.RUNNING, progress={"done": 1, "total": 7}, **times))
    assert "6 per hour" in text_of(slow)
    done = page(make_job(State.SUCCEEDED, progress={"done": 7, "total": 7}, **times))
    assert "100 % 7 / 7" in text_of(done)
    assert "per minute" not in done


def test_checkpoint_and_the_newest_steps_are_shown_with_their_number(page):
    # The last one to be written is the oldest.
    job, other = make_job(State.RUNNING), make_job()
    Checkpoint.objects.create(job=job, value={"cursor": 412}, positions={"papers": 7})
    Step.objects.bulk_create(
        Step(job=job, name=f"step {n:02}", result=n, finished_at=NOON - timedelta(minutes=n))
        for n in range(60)
    )
    Step.objects.create(job=other, name="of another job")
    html = page(job)
    assert '"cursor": 412' in unescape(html)
    assert "papers 7 done" in text_of(html)
    alike, *steps = re.findall(r"<code>(step .*?)</code>", html)
    assert alike == "step 59 to step 00"
    assert steps == [f"step {n:02}" for n in reversed(range(50))]
    assert "Steps: 60. The newest 50 can be opened." in html


def test_a_long_value_is_cut_and_says_how_long_it_was(page):
    html = page(make_job(State.SUCCEEDED, result="x" * 3_000_000))
    assert "cut here; 3,000,002 characters in all" in html
    assert len(html) < 200_000


@pytest.mark.parametrize(("steps", "queries"), [(0, 12), (80, 13)])  # one for the times of all steps
def test_the_number_of_queries_is_bounded(admin_client, django_assert_max_num_queries, steps, queries):
    job = make_job(State.RUNNING, errors=[attempt("failed", 0) for _ in range(10)])
    Step.objects.bulk_create(Step(job=job, name=str(n)) for n in range(steps))
    ContentType.objects.get_for_model(Job)  # Django asks for it once in the life of a process
    with django_assert_max_num_queries(queries):
        admin_client.get(page_of(job))


def test_the_times_of_a_job_are_among_its_facts(page):
    asked, ended = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
    columns = {"enqueued_at": NOON, "cancel_requested_at": asked, "finished_at": ended, "delete_after": ended}
    text = text_of(page(make_job(State.CANCELLED, **columns)))
    assert "Enqueued 2026-01-05 06:00:00" in text
    assert (
        "Cancel requested 2026-01-05 07:00:00 Finished 2026-01-05 08:00:00 Deleted after 2026-01-05" in text
    )
    due = timezone.now().replace(year=2077, microsecond=0)
    assert "Due 2077-" in text_of(page(make_job(State.SCHEDULED, run_at=due)))


def test_only_the_page_of_an_unfinished_job_refreshes_itself(page):
    assert 'data-refresh-seconds="3"' in page(make_job(State.RUNNING))
    assert "data-refresh-seconds" not in page(make_job(State.FAILED))


def test_the_facts_name_what_holds_a_job_as_its_head_does(page):
    text = text_of(page(make_job(State.HELD, held_by="budget:translations", attempt=1)))
    assert "Held by the budget “translations” " in text
    assert "Attempts used 1 / " in text
    assert "Held by a person " in text_of(page(make_job(State.HELD)))


OF_A_LETTER = {"dead_letter_queue": "dead", "dead_lettered_at": NOON}


@pytest.mark.parametrize(
    ("state", "columns", "shown"),
    [
        (State.READY, {}, ["Kept after it finishes 7 d", "Kept if it fails 90 d"]),
        (State.SUCCEEDED, {}, ["Kept after it finished 7 d"]),
        (State.CANCELLED, {}, ["Kept after it finished 7 d"]),
        (State.FAILED, {}, ["Kept after it finished 90 d"]),
        (State.FAILED, {"failed_retention": timedelta(days=3)}, ["Kept if it fails 3 d"]),
        (State.FAILED, {"failed_retention": timedelta(days=36_501)}, ["Kept if it fails forever"]),
    ],
)
def test_how_long_a_job_is_kept_is_what_holds_for_its_state(page, state, columns, shown):
    text = text_of(page(make_job(state, retention=timedelta(days=7), **columns, **OF_A_LETTER)))
    assert re.findall(r"Kept (?:after it finish(?:ed|es)|if it fails) (?:\d+ d|forever)", text) == shown
    assert "Dead letter queue dead" in text
    assert "Dead letter sent 2026-01-05 06:00:00" in text


@pytest.mark.parametrize(
    ("until", "period", "said"),
    [
        ("waiting", None, "until it is claimed"),
        ("unfinished", None, "until it has finished"),
        ("retained", NOON, "as long as it is kept, but not after 2026-01-05 06:00:00"),
        (None, None, "as long as it is kept"),
    ],
)
def test_a_unique_key_stands_there_with_how_long_it_counts(page, until, period, said):
    columns = {"unique_while": until, "unique_until": period}
    html = page(make_job(State.READY, unique_key=f"add {EVIL} #1", **columns))
    assert f"add {EVIL} #1" in text_of(html)
    assert EVIL not in html
    assert said in text_of(html)
    hashed = page(make_job(State.READY, unique_key="charge evt_1 #" + "01234567" * 8, **columns))
    assert "charge evt_1 #01234567… " in text_of(hashed)


def test_the_limits_of_a_job_are_shown(page):
    job = make_job(State.READY, concurrency_key=f"shop:{EVIL}", concurrency_limit=3, slots=2)
    html = page(job)
    assert f"Concurrency key shop:{EVIL}, 3 at a time" in text_of(html)
    assert "Slots 2" in text_of(html)
    assert EVIL not in html
    assert "Slots" not in text_of(page(make_job(State.READY, slots=1)))


def test_a_page_shows_what_each_step_and_the_whole_job_have_cost(admin_client):
    job = make_job()
    Step.objects.create(job=job, name="ask", usd="0.013", tokens_in=900, tokens_out=7)
    Step.objects.create(job=job, name="free")
    for usd in ("0.013", "1234.5"):
        CostEntry.objects.create(job_id=job.pk, usd=usd, tokens_in=900)
    page = admin_client.get(page_of(job)).text
    step = '<span title="$0.013">$0.01</span> (900 tokens in, 7 out)'
    assert step in page
    assert '<span title="$1,234.513">$1,234.51</span> (1,800 tokens in, 0 out)' in page
    assert f"Cost of all steps: <strong>{step}</strong>" in page
    assert len(re.findall(r"\$\d", page)) == 6  # the step's in its row, too; each with the exact amount


LIBRARY = '  File "/srv/venv/lib/python3.13/site-packages/httpx/_client.py", line 9, in send\n    raise x\n'
OWN = '  File "/srv/shop/tasks.py", line 3, in charge\n    client.send()\n    ~~~~~^^\n'
TRACEBACK = f"Traceback (most recent call last):\n{OWN}{LIBRARY}{LIBRARY}{OWN}shop.Refused: card 4242\n"


def test_a_checkpoint_of_a_loop_alone_shows_no_value(page):
    job = make_job(State.RUNNING)
    Checkpoint.objects.create(job=job, value=None, positions={"papers": [1200, "a-private-key", "zz"]})
    html = page(job)
    card = text_of(html[html.index('data-live="checkpoint"') :])
    assert "a-private-key" not in card
    assert "papers 1,200 done" in card
    assert "null" not in card


def make_secretive(**fields):
    """A job with a secret in each place that has names."""
    kwargs = {"api_key": "hunter2", "n": 1}
    values = {"args": ["7", "hunter2"], "kwargs": kwargs, "result": {"token": "hunter2"}}
    keys = {"unique_key": "pay hunter2", "concurrency_key": "hunter2"}
    job = make_job(State.SUCCEEDED, task="tests.jobs.editing.pay", **(values | keys | fields))
    Checkpoint.objects.create(job=job, value={"password": "hunter2", "at": 5}, positions={"rows": 2})
    Step.objects.create(job=job, name="ask", result={"access_token": "hunter2", "model": "m"})
    return job


def test_secrets_are_masked_wherever_they_have_a_name(page):
    html = unescape(page(make_secretive()))
    assert "hunter2" not in html
    for shown in ('"7"', '"n": 1', '"at": 5', '"model": "m"', "••••••"):
        assert shown in html


def test_without_patterns_everything_is_shown(page, settings):
    settings.PGONLY = {"MASKED_ARGUMENTS": []}
    assert page(make_secretive()).count("hunter2") == 7


@pytest.mark.parametrize("result", [4711, {"value": "hunter2"}])
def test_the_result_of_a_step_with_a_secret_name_is_masked_whatever_it_is(page, result):
    job = make_job(State.RUNNING)
    Step.objects.create(job=job, name="fetch api-key", result=result)
    Step.objects.create(job=job, name="fetch model", result="deepseek")
    html = unescape(page(job))
    assert "••••••" in html
    assert "hunter2" not in html
    assert "4711" not in html
    assert "deepseek" in html


def test_a_long_result_of_a_step_is_not_cut_in_the_middle_of_what_is_masked(page):
    job = make_job(State.RUNNING)
    long = {"a": "x" * 3_000, "password": "hunter2"}
    too_long = {"a": "x" * 60_000, "password": "hunter2"}
    Step.objects.bulk_create(
        Step(job=job, name=name, result=result)
        for name, result in (("long", long), ("too long", too_long), ("text", "y" * 60_000))
    )
    html = page(job)
    assert "hunter2" not in html
    assert "It is too long to be shown: 60,032 characters." in html
    assert "y" * 1_000 in html


def test_what_the_job_has_emitted_is_shown_as_its_readers_see_it(page):
    job = make_job(State.RUNNING)
    for place, (start, text) in enumerate([(0, "<b>Half a"), (8, "A summary")], start=1):
        JobOutput.objects.create(job=job, part="", place=place, start=start, text=text)
    JobOutput.objects.create(job=job, part="step ask", place=0, start=0, text="of a step")
    html = page(job)
    assert "&lt;b&gt;Half A summary" in html
    assert "of a step" not in html
    assert "<h2>Output</h2>" not in page(make_job(State.RUNNING))


def test_of_a_long_output_the_end_is_shown(page):
    job = make_job(State.RUNNING)
    JobOutput.objects.create(job=job, part="", place=1, start=0, text="a" * 100_000 + "the end")
    html = page(job)
    assert "The end of 100,007 characters." in html
    assert "the end</pre>" in html
    assert len(html) < 100_000


def test_who_may_not_see_data_sees_the_rest_of_the_page(client, person):
    person("view_job")
    texts = {"message": "hunter2", "traceback": TRACEBACK, "reason": "hunter2"}
    error = attempt("failed", 0, exception="shop.Refused", **texts)
    crash = {"outcome": "crashed", "reason": "Its worker died."}
    job = make_secretive(
        kwargs={"note": "hunter2"},
        errors=[error, crash],
        log=[{"at": NOON.isoformat(), "text": "hunter2"}],
        metadata={"tenant": "hunter2"},
        progress={"done": 3, "total": 4, "message": "hunter2"},
    )
    JobOutput.objects.create(job=job, part="", place=1, start=0, text="hunter2")
    html = client.get(page_of(job)).text
    assert "hunter2" not in html
    assert "4242" not in html
    for shown in ("Refused", "Its worker died.", "in charge", "rows", "ask", "view_job_data"):
        assert shown in html


@pytest.mark.parametrize(
    "query",
    [
        "q=hunt", "q=note=hunter2", "kwargs__note__startswith=h", "unique_key__contains=hunt", "args__0=7",
        "metadata__note=hunter2", "progress__message__startswith=h",
    ],
)  # fmt: skip
def test_no_search_tells_data_to_those_who_may_not_see_it(client, person, query):
    person("view_job")
    data = {"note": "hunter2"}
    make_secretive(kwargs=data, metadata=data, progress={"message": "hunter2"})
    answer = client.get(f"/admin/pgonly_django/job/?{query}")
    assert answer.status_code == 400 or str(Job.objects.get().pk) not in answer.text
