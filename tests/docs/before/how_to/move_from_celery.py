from django.db import connection, models

from pgonly_django.testing import drain


class Report(models.Model):
    parts_left = models.IntegerField(default=0)

    class Meta:
        app_label = "docs_move_from_celery"


with connection.schema_editor() as editor:
    editor.create_model(Report)

pages = []


def write_page(report_id, page):
    pages.append(page)


def after(page):
    ran = [(result.task.name, result.return_value) for result in drain()]
    assert ("send_invoice", "invoice 7, attempt 1") in ran
    assert ("send_code", "sent to +49 30 1234") in ran
    assert [value for name, value in ran if name == "summarize"] == [1, 2, 3]
    assert ("send_invoice", "invoice 8, attempt 1") not in ran
    assert page.task.__name__

    page.send_code.enqueue("1", "2000-01-01T00:00:00+00:00")
    assert drain()[0].job.state == "failed"

    page.load.enqueue(4)
    assert [result.task.name for result in drain()] == ["load", "summarize"]

    report = Report.objects.create()
    page.start(report, ["one", "two", "three"])
    assert [result.task.name for result in drain()] == ["write_chapter"] * 3 + ["bind_book"]

    report = Report.objects.create(parts_left=1)
    page.write_long_chapter.enqueue(report.pk, 2)
    assert [result.task.name for result in drain()] == ["write_long_chapter", "bind_book"]
    assert pages == [1, 2]
