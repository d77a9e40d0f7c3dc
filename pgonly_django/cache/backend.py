from __future__ import annotations
from typing import Any
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from pgonly_django.cache.drive import Operation, T, arun, run
from pgonly_django.cache.options import parse
from pgonly_django.cache.store import Store

class PostgresCache(BaseCache):
    def __init__(self, location, params):
        super().__init__(params)
        self._options = parse(params.get("OPTIONS", {}))
        self.store = Store(location, self._options)
    def _key(self, key, version):
        return self.store.key(self.make_key(key, version))
    def _seconds(self, timeout):
        return self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
    def get(self, key, default=None, version=None):
        return run(self.store.get(self._key(key, version), default))
    async def aget(self, key, default=None, version=None):
        return await arun(self.store.get(self._key(key, version), default))
    def set(self, key, value, timeout=DEFAULT_TIMEOUT, version=None):
        return run(self.store.set(self._key(key, version), value, self._seconds(timeout)))
    def incr(self, key, delta=1, version=None):
        return run(self.store.add_to(self._key(key, version), delta))
    def get_many(self, keys, version=None):
        wanted = {self._key(key, version): key for key in keys}
        found = run(self.store.get_many(list(wanted)))
        return {wanted[key]: value for key, value in found.items()}
    def set_many(self, data, timeout=DEFAULT_TIMEOUT, version=None):
        run(self.store.set_many({self._key(k, version): v for k, v in data.items()}, self._seconds(timeout)))
        return []

    def add(self, key, value, timeout=DEFAULT_TIMEOUT, version=None):
        return run(self.store.add(self._key(key, version), value, self._seconds(timeout)))
    def touch(self, key, timeout=DEFAULT_TIMEOUT, version=None):
        return run(self.store.touch(self._key(key, version), self._seconds(timeout)))
    def delete(self, key, version=None):
        return run(self.store.delete(self._key(key, version)))
    async def aset(self, key, value, timeout=DEFAULT_TIMEOUT, version=None):
        return await arun(self.store.set(self._key(key, version), value, self._seconds(timeout)))
