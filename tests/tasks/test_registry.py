"""`@task(aliases=[...])`: what is claimed, and what is refused. tests/worker/test_aliases.py runs jobs."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, ModuleType

import pytest

from pgonly_django import cron, task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError
from pgonly_django.scheduling import decorators
from pgonly_django.scheduling.decorators import declarations
from pgonly_django.tasks import backend, registry
from pgonly_django.tasks.registry import UnknownTaskError, find_task, import_task
from tests.tasks import calls
from tests.tasks.calls import add


def act(account_id, note=""): ...


@pytest.fixture(autouse=True)
def only_those_of_the_test(monkeypatch):
    monkeypatch.setattr(registry, "_claimed", {})
    monkeypatch.setattr(registry, "_declared", {})
    find_task.cache_clear()
    yield
    find_task.cache_clear()


@pytest.fixture
def module(monkeypatch):
    """A module of this name that is imported, with nothing in it."""

    def make(name):
        made = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def made(module, name="act", **options):
    """A task in `module` whose function is another object each time, as where the module is imported again."""
    function = FunctionType(act.__code__, globals(), name, act.__defaults__)
    function.__module__, function.__qualname__ = module.__name__, name
    created = task(**options)(function)
    setattr(module, name, created)
    return created


def test_a_former_path_leads_to_the_task(module):
    renamed = made(module("shop.mail"), aliases=["shop.tasks.send", "shop.tasks.send_mail"])
    assert import_task("shop.tasks.send") is renamed
    assert import_task("shop.tasks.send_mail") is renamed
    assert import_task("shop.mail.act") is renamed
    with pytest.raises(UnknownTaskError, match=r"Cannot import the task shop\.tasks\.sent"):
        import_task("shop.tasks.sent")


def test_a_former_path_leads_to_the_task_as_the_job_was_enqueued(module):
    made(module("shop.mail"), aliases=["shop.tasks.send"])
    found = find_task("shop.tasks.send", "default", "ai", 7)
    assert (found.module_path, found.queue_name, found.priority) == ("shop.mail.act", "ai", 7)


def test_djangos_decorator_takes_aliases_too(module):
    there = module("shop.mail")
    function = FunctionType(act.__code__, globals(), "act")
    function.__module__, function.__qualname__ = "shop.mail", "act"
    try:
        there.act = calls.djangos_task(aliases=["shop.tasks.send"])(function)
    except TypeError:
        pytest.skip("this Django passes no options on")
    assert import_task("shop.tasks.send") is there.act


def test_tasks_are_known_by_each_path_under_which_a_job_of_them_may_be_stored(module):
    renamed = made(module("shop.mail"), aliases=["shop.tasks.send"])
    renamed.using(priority=5)
    known = registry.known_tasks()
    assert known["shop.mail.act"].func is known["shop.tasks.send"].func is renamed.func


def test_using_keeps_the_aliases_and_claims_nothing_of_its_own(module):
    renamed = made(module("shop.mail"), aliases=["shop.tasks.send"])
    assert renamed.using(priority=5).aliases == ("shop.tasks.send",)
    assert import_task("shop.tasks.send") is renamed


def test_a_module_that_is_imported_again_replaces_what_it_claimed(module):
    there = module("shop.mail")
    first = made(there, aliases=["shop.tasks.send"])
    module("shop.tasks").send = first  # and a module that imports the task under its former name
    again = made(there, aliases=["shop.tasks.send"])
    assert registry.claimed() == {"shop.tasks.send": again}


def test_two_tasks_cannot_have_the_same_alias(module):
    made(module("shop.mail"), aliases=["shop.tasks.send"])
    with pytest.raises(
        InvalidTask, match=r"@task act: shop\.mail\.act has the alias 'shop\.tasks\.send' too"
    ):
        made(module("shop.sms"), aliases=["shop.tasks.send"])
    assert import_task("shop.tasks.send").module_path == "shop.mail.act"


def test_an_alias_cannot_be_a_task_whichever_is_imported_first(module):
    made(module("shop.tasks"), "send")
    with pytest.raises(
        InvalidTask, match=r"the alias 'shop\.tasks\.send' is another task\. Take the alias out"
    ):
        made(module("shop.mail"), aliases=["shop.tasks.send"])
    made(module("shop.mail"), aliases=["shop.tasks.late"])
    with pytest.raises(InvalidTask, match=r"@task late: shop\.tasks\.late is an alias of shop\.mail\.act"):
        made(module("shop.tasks"), "late")


def test_the_former_module_may_import_the_task_under_its_old_name(module):
    renamed = made(module("shop.mail"))
    module("shop.tasks").send = renamed
    assert made(sys.modules["shop.mail"], aliases=["shop.tasks.send"]).aliases == ("shop.tasks.send",)


@pytest.mark.parametrize("value", ["shop.tasks.send", None, 3, {"shop.tasks.send"}])
def test_aliases_are_a_list(module, value):
    with pytest.raises(
        InvalidTask, match=r"@task act: aliases must be a list of dotted paths such as .*, got"
    ):
        made(module("shop.mail"), aliases=value)


@pytest.mark.parametrize(
    "alias", ["send", "", 3, "shop.tasks.send mail", "shop..send", "shop.a\0b", "s." + "x" * 254]
)
def test_an_alias_is_a_dotted_path(module, alias):
    with pytest.raises(InvalidTask, match=r"aliases must be a list of dotted paths .* among them"):
        made(module("shop.mail"), aliases=["shop.tasks.send", alias])


def test_an_alias_is_named_once_and_is_not_the_tasks_own_path(module):
    with pytest.raises(InvalidTask, match=r"has 'shop\.tasks\.send' twice"):
        made(module("shop.mail"), aliases=["shop.tasks.send", "shop.tasks.send"])
    with pytest.raises(InvalidTask, match=r"aliases has the task's own path\. Take 'shop\.mail\.act' out"):
        made(module("shop.mail"), aliases=["shop.mail.act"])


def test_aliases_belong_to_the_decorator(module):
    with pytest.raises(OptionError, match=r"act\.using\(\): aliases belong to the task"):
        made(module("shop.mail")).using(aliases=["shop.tasks.send"])


def test_a_task_that_moved_to_a_module_that_is_not_imported_yet_is_found(monkeypatch, tmp_path):
    """As in a web process that shows the result of a job of the version before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "moved_to.py").write_text(
        "from pgonly_django import task\n@task(aliases=['moved_from.send'])\ndef send(): ...\n"
    )
    looked = []

    def import_tasks():
        looked.append(True)
        __import__("moved_to")

    monkeypatch.setattr("pgonly_django.tasks.registry.import_tasks", import_tasks)
    try:
        assert import_task("moved_from.send").module_path == "moved_to.send"
        assert import_task("moved_from.send").module_path == "moved_to.send"
    finally:
        sys.modules.pop("moved_to", None)
    assert looked == [True]


def test_a_unique_key_stays_the_same_when_a_task_is_renamed(module):
    """The old version and the new one make one job of the same calls, and a webhook that comes again makes none."""
    own = backend.PostgresBackend("default", {})
    before = made(module("shop.tasks"), "send", unique=True)
    keys = [
        own._new_job(each, [1], {}).unique.key for each in (before, before.using(idempotency_key="event 1"))
    ]
    del sys.modules["shop.tasks"].send
    renamed = made(module("shop.mail"), unique=True, aliases=["shop.tasks.send", "shop.tasks.between"])
    after = [
        own._new_job(each, [1], {}).unique.key for each in (renamed, renamed.using(idempotency_key="event 1"))
    ]
    assert after == keys
    other = made(module("shop.sms"), unique=True)
    assert own._new_job(other, [1], {}).unique.key not in keys


def test_a_schedule_keeps_its_name_when_its_task_is_renamed(module, monkeypatch):
    """So it stays paused where a person paused it, and it does not tick twice while a deploy rolls."""
    monkeypatch.setattr(decorators, "_declared", {})
    there = module("shop.mail")
    renamed = made(there, aliases=["shop.tasks.send"])
    cron("0 3 * * *", args=[1])(renamed)
    ((name, (_, declared)),) = declarations().items()
    assert (name, declared.task) == ("shop.tasks.send", "shop.mail.act")


def test_a_module_of_tasks_that_cannot_be_imported_is_logged_once_and_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(registry, "_failures", {})
    tried = []

    def fail(path):
        tried.append(path)
        if path == "example_project.screening.tasks":
            raise SystemExit(f"No {path} today.")

    monkeypatch.setattr(registry.importlib, "import_module", fail)
    reason = "SystemExit: No example_project.screening.tasks today."
    assert registry.import_tasks() == {"example_project.screening.tasks": reason}
    assert registry.import_tasks() == {"example_project.screening.tasks": reason}
    assert tried.count("example_project.screening.tasks") == 1
    monkeypatch.setattr(registry, "TRY_AGAIN_SECONDS", 0.0)
    registry._failures.clear()
    registry.import_tasks()
    registry.import_tasks()
    assert tried.count("example_project.screening.tasks") == 3
    lines = [record.message for record in caplog.records if "cannot be imported" in record.message]
    assert len(lines) == 2  # one for each failure that is new
    assert "so its tasks and schedules are unknown here" in lines[0]
    monkeypatch.undo()
    assert registry.import_tasks() == {}


def test_threads_may_look_for_a_task_at_the_same_time():
    """Two threads that invalidate the caches of imports can meet: a KeyError or a RuntimeError on CPython 3.11."""
    gone = dict.fromkeys(f"/no such path/{number}" for number in range(50))  # such entries are removed

    def find(_number):
        sys.path_importer_cache.update(gone)
        return import_task("tests.tasks.calls.add")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(find, range(500)))
    finally:
        sys.setswitchinterval(before)
    assert set(map(id, found)) == {id(add)}
