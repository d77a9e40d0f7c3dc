"""What the store promises beyond Django's contract."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.db import connection, transaction
from django.utils import timezone

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore

pytestmark = pytest.mark.django_db


def stored(**values) -> SessionStore:
    session = SessionStore()
    session.update(values)
    session.save()
    return session


class PickleSerializer:
    def dumps(self, obj):
        return pickle.dumps(obj)

    def loads(self, data):
        return pickle.loads(data)


def again(session: SessionStore) -> SessionStore:
    return SessionStore(session.session_key)


def seen_seconds_ago(session: SessionStore, seconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pgonly_session SET last_seen_at = now() - %s * interval '1 second'", [seconds])


def test_two_requests_that_set_different_keys_both_keep_theirs():
    key = stored(kept=0).session_key
    one, two = SessionStore(key), SessionStore(key)
    one["one"], two["two"] = 1, 2
    one.save()
    two.save()
    assert dict(SessionStore(key).items()) == {"kept": 0, "one": 1, "two": 2}


def test_of_two_requests_that_set_the_same_key_the_last_writer_wins():
    key = stored(color="red").session_key
    one, two = SessionStore(key), SessionStore(key)
    one["color"], two["color"] = "blue", "green"
    one.save()
    two.save()
    assert SessionStore(key)["color"] == "green"


def test_a_removed_key_does_not_come_back_with_another_requests_save():
    key = stored(gone=1, kept=1).session_key
    one, two = SessionStore(key), SessionStore(key)
    del one["gone"]
    two["kept"] = 2
    assert two["gone"] == 1
    one.save()
    two.save()
    assert dict(SessionStore(key).items()) == {"kept": 2}


def test_a_change_inside_a_nested_value_is_found_at_save():
    session = again(stored(cart={"items": [1]}))
    session["cart"]["items"].append(2)
    session.modified = True
    session.save()
    assert again(session)["cart"] == {"items": [1, 2]}


def test_an_emptied_session_is_still_a_session():
    session = again(stored(a=1))
    del session["a"]
    session.save()
    assert Session.objects.for_key(session.session_key).get().data == {}
    assert session.exists(session.session_key)


def test_clearing_drops_what_a_parallel_request_has_set():
    key = stored(old=1).session_key
    one, two = SessionStore(key), SessionStore(key)
    two["late"] = 1
    two.save()
    one.clear()
    one["new"] = 1
    one.save()
    assert dict(SessionStore(key).items()) == {"new": 1}


def test_a_deleted_session_is_not_resurrected_by_a_slow_request():
    slow = again(stored(a=1))
    slow["b"] = 2
    again(slow).delete()
    with pytest.raises(UpdateError):
        slow.save()
    assert not Session.objects.exists()


def test_a_logged_in_session_that_was_ended_does_not_come_back_under_a_new_key():
    slow = again(stored(_auth_user_id="7"))
    assert slow["_auth_user_id"] == "7"
    again(slow).delete()
    with pytest.raises(SessionInterrupted):
        slow.cycle_key()
    assert not Session.objects.exists()


def test_a_visitor_whose_session_was_ended_can_still_log_in():
    slow = again(stored(cart=[1]))
    assert slow["cart"] == [1]
    again(slow).delete()
    slow.cycle_key()
    slow.save()
    assert again(slow)["cart"] == [1]


def test_a_key_that_a_visitor_brings_along_is_never_used():
    session = SessionStore("chosenbytheattacker")
    session["a"] = 1
    session.save()
    assert session.session_key != "chosenbytheattacker"
    assert not SessionStore().exists("chosenbytheattacker")


def test_cycling_the_key_moves_the_row():
    session = again(stored(a=1))
    before = session.session_key
    session.cycle_key()
    session["b"] = 2
    session.save()
    assert not session.exists(before)
    assert dict(again(session).items()) == {"a": 1, "b": 2}
    assert Session.objects.count() == 1


def test_the_user_id_follows_login_and_logout():
    session = again(stored(a=1))
    session["_auth_user_id"] = "7"
    session.save()
    assert Session.objects.get().user_id == "7"
    del session["_auth_user_id"]
    session.save()
    assert Session.objects.get().user_id is None


def test_another_requests_save_leaves_the_user_id_alone():
    visitor = again(stored(a=1))
    login = again(visitor)
    visitor["a"] = 2
    login["_auth_user_id"] = "7"
    login.save()
    visitor.save()
    assert Session.objects.get().user_id == "7"


def test_a_load_is_one_statement(django_assert_num_queries):
    session = again(stored(a=1))
    with django_assert_num_queries(1):
        assert session["a"] == 1


def test_a_new_session_is_one_statement(django_assert_num_queries):
    session = SessionStore()
    session["a"] = 1
    with django_assert_num_queries(1):
        session.save()


def test_a_changed_session_is_one_statement_more(django_assert_num_queries):
    session = again(stored(a=1))
    with django_assert_num_queries(2):
        session["a"] = 2
        session.save()


def test_a_logout_is_one_statement_after_the_load(django_assert_num_queries):
    session = again(stored(a=1))
    with django_assert_num_queries(2):
        assert session["a"] == 1
        session.flush()


def test_a_login_is_three_statements(django_assert_num_queries):
    session = again(stored(a=1))
    with django_assert_num_queries(3):
        session.cycle_key()
        session["_auth_user_id"] = "7"
        session.save()


def test_saving_what_did_not_change_is_no_statement(django_assert_num_queries):
    session = again(stored(a=1))
    with django_assert_num_queries(1):
        session["a"] = 1
        session.save()


def test_a_touch_is_one_statement_a_minute(django_assert_num_queries):
    first = again(stored(a=1))
    seen_seconds_ago(first, 61)
    Session.objects.update(expires_at="2100-01-01T00:00Z")
    with django_assert_num_queries(2):
        assert first["a"] == 1
        first.save()
        first.save()
    assert Session.objects.get().expires_at.year < 2100
    with django_assert_num_queries(1):
        again(first).save()


def test_a_short_lived_session_is_touched_before_it_can_expire():
    session = stored(a=1)
    session.set_expiry(20)
    session.save()
    seen_seconds_ago(session, 3)
    before = Session.objects.get().last_seen_at
    again(session).save()
    assert Session.objects.get().last_seen_at > before


def test_touching_keeps_a_large_value_as_it_is():
    session = stored(large="x" * 500_000)
    seen_seconds_ago(session, 61)
    again(session).save()
    assert again(session)["large"] == "x" * 500_000


def test_a_touch_notices_that_the_session_was_ended():
    session = again(stored(a=1))
    seen_seconds_ago(session, 61)
    assert session["a"] == 1
    again(session).delete()
    with pytest.raises(UpdateError):
        session.save()


@pytest.mark.django_db(transaction=True)
def test_what_a_rollback_undid_is_sent_again_by_the_next_save():
    session = again(stored(a=1))
    with transaction.atomic():
        session["b"] = 2
        session.save()
        transaction.set_rollback(True)
    assert "b" not in again(session)
    session.save()
    assert again(session)["b"] == 2


@pytest.mark.django_db(transaction=True)
def test_what_was_saved_in_a_transaction_is_merged_by_the_save_after_it():
    session = SessionStore()
    with transaction.atomic():
        session["a"] = 1
        session.save()
    parallel = again(session)
    parallel["b"] = 2
    parallel.save()
    session["c"] = 3
    session.save()
    assert dict(again(session).items()) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.django_db(transaction=True)
def test_what_was_removed_in_a_transaction_is_not_removed_again_after_it():
    session = again(stored(a=1, kept=1))
    with transaction.atomic():
        del session["a"]
        session.save()
    parallel = again(session)
    parallel["a"] = 2
    parallel.save()
    session.save()
    assert again(session)["a"] == 2


@pytest.mark.django_db(transaction=True)
def test_a_session_that_was_cleared_after_its_save_in_a_transaction_is_replaced():
    session = again(stored(a=1))
    with transaction.atomic():
        session["b"] = 2
        session.save()
        session.clear()
    parallel = again(session)
    parallel["late"] = 1
    parallel.save()
    session["new"] = 1
    session.save()
    assert dict(again(session).items()) == {"new": 1}


def seconds_left(session: SessionStore) -> float:
    return (Session.objects.for_key(session.session_key).get().expires_at - timezone.now()).total_seconds()


@pytest.fixture(params=["JSONSerializer", "PickleSerializer"])
def _serializer(request, settings):
    homes = {"JSONSerializer": "django.contrib.sessions.serializers", "PickleSerializer": __name__}
    settings.SESSION_SERIALIZER = f"{homes[request.param]}.{request.param}"


@pytest.mark.usefixtures("_serializer")
def test_an_expiry_that_a_parallel_request_has_set_stays():
    one = again(stored(a=1))
    two = again(one)
    one["one"], two["two"] = 1, 2
    one.set_expiry(300)
    one.save()
    two.save()
    assert dict(again(one).items()) == {"a": 1, "one": 1, "two": 2, "_session_expiry": 300}
    assert seconds_left(one) <= 300


@pytest.mark.usefixtures("_serializer")
def test_a_touch_leaves_an_expiry_that_a_parallel_request_has_set():
    session = again(stored(a=1))
    seen_seconds_ago(session, 3600)
    assert session["a"] == 1
    parallel = again(session)
    parallel.set_expiry(300)
    parallel.save()
    session.save()
    assert seconds_left(session) <= 300


@pytest.mark.usefixtures("_serializer")
def test_an_expiry_of_the_sessions_own_slides_with_every_change():
    first = stored(a=1)
    first.set_expiry(300)
    first.save()
    for change in ({"b": 1}, {}):
        Session.objects.update(expires_at=timezone.now() + timedelta(seconds=10))
        seen_seconds_ago(first, 3600)
        session = again(first)
        session.update(change)
        session.save()
        assert 290 < seconds_left(session) <= 300


@pytest.mark.usefixtures("_serializer")
def test_a_request_that_has_set_the_expiry_goes_on_setting_it():
    session = again(stored(a=1))
    session.set_expiry(300)
    session.save()
    again(session).save()
    session["b"] = 1
    Session.objects.update(expires_at=timezone.now() + timedelta(seconds=10))
    session.save()
    assert seconds_left(session) > 290


@pytest.mark.django_db(transaction=True)
def test_a_login_in_a_transaction_that_rolls_back_leaves_the_old_session_as_it_was():
    session = again(stored(a=1))
    before = session.session_key
    with transaction.atomic():
        session.cycle_key()
        session["_auth_user_id"] = "7"
        session.save()
        transaction.set_rollback(True)
    assert dict(SessionStore(before).items()) == {"a": 1}


async def _set_and_read() -> dict:
    session = SessionStore()
    await session.aset("a", 1)
    await session.acycle_key()
    await session.asave()
    loaded = SessionStore(session.session_key)
    await loaded.aset("b", 2)
    await loaded.asave()
    return dict(await SessionStore(session.session_key).aitems())


def test_the_async_methods_do_the_same():
    from asgiref.sync import async_to_sync

    assert async_to_sync(_set_and_read)() == {"a": 1, "b": 2}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("waits", "expected"), [(True, "on"), (False, "off")])
def test_whether_a_merge_waits_for_the_disk_is_a_setting(settings, waits, expected):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": waits}
    assert commit_setting_of(lambda session: session.update({"b": 2})) == expected


@pytest.mark.django_db(transaction=True)
def test_a_login_always_waits_for_the_disk(settings):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": False}
    assert commit_setting_of(lambda session: session.update({"_auth_user_id": "7"})) == "on"


@pytest.mark.django_db(transaction=True)
def test_a_touch_never_waits_for_the_disk():
    assert commit_setting_of(lambda session: seen_seconds_ago(session, 61)) == "off"


@pytest.mark.django_db(transaction=True)
def test_the_callers_transaction_keeps_its_own_setting(settings):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": False}
    session = again(stored(a=1))
    with transaction.atomic(), connection.cursor() as cursor:
        session["a"] = 2
        session.save()
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)


def commit_setting_of(change) -> str:
    """The synchronous_commit under which the save after `change` commits, noted by a trigger."""
    session = again(stored(a=1))
    with connection.cursor() as cursor:
        cursor.execute(NOTE_COMMIT_SETTING)
        change(session)
        session.save()
        cursor.execute("SELECT setting FROM noted_commit ORDER BY at DESC LIMIT 1")
        (noted,) = cursor.fetchone()
        cursor.execute("DROP TABLE noted_commit; DROP FUNCTION note_commit CASCADE")
    return noted


NOTE_COMMIT_SETTING = """
CREATE TABLE noted_commit (setting text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO noted_commit (setting) VALUES (current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE TRIGGER note_commit AFTER UPDATE ON pgonly_session FOR EACH ROW EXECUTE FUNCTION note_commit();
"""


@pytest.mark.parametrize(
    "value", [{1: "a", "1": "b"}, {"x": [{None: 1, "null": 2}]}, {True: "yes", "true": "ja", "n": 1}]
)
def test_keys_that_json_writes_alike_are_no_change_of_every_later_request(django_assert_num_queries, value):
    key = stored(odd=value).session_key
    reader, writer = SessionStore(key), SessionStore(key)
    assert reader["odd"]
    writer["odd"] = "set by another request"
    writer.save()
    reader["other"] = 1
    reader.save()
    assert dict(SessionStore(key).items()) == {"odd": "set by another request", "other": 1}
    key = stored(odd=value).session_key
    with django_assert_num_queries(1):
        SessionStore(key).save()


def test_a_shorter_value_is_a_change():
    session = again(stored(a=[1, 2, 3]))
    session["a"] = [1]
    session.save()
    assert again(session)["a"] == [1]
