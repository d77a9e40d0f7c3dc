"""Wagtail, whose signal handlers enqueue tasks of its own: the reference index, the search index, deleting files."""

from __future__ import annotations

import io

import pytest
from django.core.files.base import ContentFile
from wagtail.images.models import Image
from wagtail.models import Collection, Locale, Page, Site
from wagtail.search.models import IndexEntry

from pgonly_django.models import Job

pytestmark = pytest.mark.slow


@pytest.fixture
def root(transactional_db):
    Locale.objects.create(language_code="en")
    Collection.add_root(name="Root")
    page = Page.add_root(instance=Page(title="Root", slug="root"))
    Site.objects.create(hostname="testserver", root_page=page, is_default_site=True)
    return page


def tasks():
    return sorted({path.rpartition(".")[2] for path in Job.objects.values_list("task", flat=True)})


def test_saving_a_page_enqueues_its_tasks_in_our_queue_and_they_run(root, work):
    root.add_child(instance=Page(title="On rivers", slug="rivers"))
    assert {"insert_or_update_object_task", "update_reference_index_task"} <= set(tasks())
    assert set(Job.objects.values_list("state", flat=True)) == {"ready"}
    work()
    assert list(Job.objects.exclude(state="succeeded").values_list("task", "errors")) == []
    assert IndexEntry.objects.exists()
    assert [page.title for page in Page.objects.search("rivers")] == ["On rivers"]


def test_the_file_of_a_deleted_image_is_deleted_by_a_job(root, work, settings, tmp_path):
    from PIL import Image as Picture

    settings.MEDIA_ROOT = tmp_path
    Picture.new("RGB", (2, 2)).save(content := io.BytesIO(), "PNG")
    image = Image.objects.create(title="A river", file=ContentFile(content.getvalue(), "river.png"))
    work()
    assert len([*tmp_path.rglob("river*.png")]) == 1
    image.delete()
    assert "delete_file_from_storage_task" in tasks()
    work()
    assert [*tmp_path.rglob("river*.png")] == []
    assert list(Job.objects.exclude(state="succeeded").values_list("task", "errors")) == []
