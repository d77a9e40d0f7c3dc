"""With PGONLY["SESSION_ENCRYPT_DATA"] a leaked table tells no value that a session holds."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.core.signing import BadSignature

from pgonly_django.models import Session
from pgonly_django.sessions import codec
from tests import zygote
from tests.sessions.rows import NEW, OLD, PICKLE, again, column, encrypt, stored
from tests.sessions.test_codec import ODD_VALUES

pytestmark = pytest.mark.django_db


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("key", ODD_VALUES)
def test_every_value_comes_back(key):
    session = stored(**{key: ODD_VALUES[key], "plain": 1})
    assert repr(again(session)[key]) == repr(ODD_VALUES[key])


@pytest.mark.usefixtures("encrypted")
def test_values_are_not_in_the_table_and_the_names_of_keys_are():
    stored(_password_reset_token="c0ffee-s3cr3t", cart={"deep": ["s3cr3t"]}, **{"odd\x00s3cr3t": 1})
    assert "s3cr3t" not in column()
    assert "_password_reset_token" in column()


@pytest.mark.usefixtures("encrypted")
def test_a_login_works_and_its_user_is_listed(client):
    user = get_user_model().objects.create_user("ada")
    client.force_login(user)
    assert client.get("/whoami/").content == b"ada"
    assert Session.objects.for_user(user).count() == 1


@pytest.mark.usefixtures("encrypted")
def test_a_pickled_value_comes_back(settings):
    settings.SESSION_SERIALIZER = PICKLE
    session = stored(a={1, 2})
    assert '"encoded"' not in column()
    assert again(session)["a"] == {1, 2}


@pytest.mark.usefixtures("encrypted")
def test_an_encrypted_value_that_did_not_change_is_not_written(django_assert_num_queries):
    session = stored(a=[1], b={"c": 2})
    with django_assert_num_queries(1):
        again(session).save()


@pytest.mark.parametrize("serializer", ["django.contrib.sessions.serializers.JSONSerializer", PICKLE])
@pytest.mark.parametrize("before", [True, False])
def test_what_was_written_before_the_change_stays_readable_and_mixes(settings, before, serializer):
    settings.SESSION_SERIALIZER = serializer
    encrypt(settings, before)
    session = stored(a=[1])
    encrypt(settings, not before)
    later = again(session)
    later["b"] = {"c": 2}
    later.save()
    assert dict(again(session).items()) == {"a": [1], "b": {"c": 2}}
    assert column().count("sealed") == 1


@pytest.mark.usefixtures("encrypted")
def test_after_a_rotation_the_fallback_decrypts_what_the_old_key_encrypted(settings):
    settings.SECRET_KEY = OLD
    session = stored(a=1)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    later = again(session)
    assert later["a"] == 1
    later["b"] = 2
    later.save()
    settings.SECRET_KEY_FALLBACKS = []
    assert dict(again(session).items()) == {"b": 2}


@pytest.mark.usefixtures("encrypted")
def test_a_value_that_no_key_decrypts_is_logged_left_out_and_left_alone(settings, caplog):
    settings.SECRET_KEY = OLD
    session = stored(a=1)
    settings.SECRET_KEY = NEW
    later = again(session)
    later["b"] = 2
    later.save()
    assert "Session data corrupted" in caplog.text
    settings.SECRET_KEY_FALLBACKS = [OLD]
    assert dict(again(session).items()) == {"a": 1, "b": 2}


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("member", [5, None, "x", {}, "=", "AAAA", "\u00e4", "A" * 100])
def test_a_forged_value_is_left_out(member):
    session = stored(good=1)
    data = Session.objects.get().data
    Session.objects.update(data={**data, "forged": {"sealed": member}})
    assert dict(again(session).items()) == {"good": 1}


@pytest.mark.usefixtures("encrypted")
def test_a_value_is_not_decrypted_under_another_name():
    encrypted = codec.encrypt("nickname", '"7"')
    assert codec.decrypt("nickname", encrypted) == '"7"'
    with pytest.raises(BadSignature):
        codec.decrypt("_auth_user_id", encrypted)


def test_the_same_value_is_encrypted_otherwise_each_time():
    assert codec.encrypt("a", "1") != codec.encrypt("a", "1")


WITHOUT_THE_LIBRARY = """
import sys
sys.modules["cryptography"] = sys.modules["cryptography.exceptions"] = None
import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from tests import settings as tested
settings.configure(
    SECRET_KEY="x", DATABASES=tested.DATABASES, INSTALLED_APPS=tested.INSTALLED_APPS,
    SESSION_ENGINE="pgonly_django.sessions", PGONLY={"SESSION_ENCRYPT_DATA": True},
)
django.setup()
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.checks import check_sessions
print(*[f"{message.id}: {message.msg} {message.hint}" for message in check_sessions()])
codec = SessionStore().codec
for use in (lambda: codec.column({"a": "1"}), lambda: codec.decode({"a": {"sealed": "AAAA"}})):
    try:
        use()
    except ImproperlyConfigured as error:
        print(error)
print(codec.decode({"a": "1"})[0])
"""


def test_without_the_library_a_check_and_an_error_say_what_to_install():
    done = zygote.run(["-c", WITHOUT_THE_LIBRARY])
    check, write, read, plain = done.stdout.splitlines()
    assert check.startswith("pgonly_django.E205: ")
    for said in (check, write, read):
        assert 'pip install "cryptography>=43"' in said
    assert plain == "{'a': 1}"
