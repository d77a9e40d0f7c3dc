"""Functions that stand for slow calls."""

from django.db.models.functions import Now
from django.test import Client

from pgonly_django import task
from pgonly_django.models import Job, Wait
from pgonly_django.testing import drain

pages = []


def load_rows(report_id):
    return [1, 2]


def write_text(rows):
    return f"{len(rows)} rows"


def send_text(report_id, text):
    pages.append(text)


def read_paper(paper_id):
    pages.append(paper_id)


def has_rows(report_id):
    return True


@task()
def publish(report_id):
    return report_id


def render(chapter_id):
    pages.append(chapter_id)


def load_page(url):
    return {"papers": [f"{url} {number}" for number in range(2)], "next": "two" if url == "one" else None}


@task()
def read_paper_of(paper):
    return paper


links = []


def mail_reviewer(question, link):
    links.append(link)


def after(page):
    ran = [(result.task.name, result.return_value) for result in drain()]
    assert [value for name, value in ran if name in ("summarize", "publish")] == [1, 2, 3, 7, 7, 7]
    assert ("count_words", 3) in ran

    page.store_count.enqueue(str(page.counted.id))
    assert [result.return_value for result in drain()] == [3]

    page.make_report.enqueue(5)
    drain()
    assert pages == ["2 rows"]

    page.load_atomically.enqueue(4)
    assert [result.task.name for result in drain()] == ["load_atomically", "summarize"]

    page.read_papers.enqueue(6, [1, 2, 3])
    assert [result.task.name for result in drain()] == ["read_papers", "summarize"]

    assert page.progress_of(page.batch).cancelled == 2
    page.start(5, ["one", "two", "three"])
    assert [result.task.name for result in drain()] == ["write_chapter"] * 3 + ["bind_book"]
    page.start(6, [])
    assert [result.task.name for result in drain()] == ["bind_book"]

    batch = page.Batch(on_success=page.bind_book.bind(7))
    batch.enqueue(page.read_list, "one")
    drain()
    assert Job.objects.filter(batch_id=batch.id).count() == 6
    assert pages == ["2 rows", 1, 2, 3, "one", "two", "three"]

    gathered = page.count_all_pages.enqueue([1, 2, 3])
    drain()
    gathered.refresh()
    assert gathered.return_value == 36

    approved = page.publish_if_approved.enqueue(7)
    page.approve(7)
    for _ in range(2):
        drain()  # it sleeps, also when it looks again before its time
        assert Job.objects.filter(pk=approved.id).run_now() == 1
    Wait.objects.update(until=Now())
    drain()
    approved.refresh()
    assert approved.return_value is True
    assert pages[-1] == "1 rows"

    decided = page.screen.enqueue(7)
    drain()
    visitor, path = Client(), links[0].removeprefix("https://screening.example")
    assert "Include paper 7?" in visitor.get(path).text
    visitor.post(path, {"choice": "exclude"})
    drain()
    decided.refresh()
    assert decided.return_value == "exclude"
