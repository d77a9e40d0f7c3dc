"""Walks through items from a position on.

A queryset is read in an order that is the same in each run. Where it is ordered by the primary key alone, or not at
all, it is read by chunks, each after the last key of the one before. A run that resumes continues after the last key
done, so rows that the loop has deleted, or changed so that the queryset leaves them out, move no others. In any other
order all rows are read at once, and the position is a number of rows, as it is of all other items.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    MappingView,
    Reversible,
)
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice, repeat
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db.models import CharField, ForeignKey, IntegerField, OneToOneRel, QuerySet, UUIDField
from django.db.models.functions import Random
from django.db.models.query import (
    FlatValuesListIterable,
    ModelIterable,
    NamedValuesListIterable,
    RawQuerySet,
    ValuesIterable,
    ValuesListIterable,
)
from django.db.models.sql.datastructures import Join

from pgonly_django.queue.checkpoints import Position

T = TypeVar("T")

# Reads with a function from the database of this alias.
Read = Callable[[str, Callable[[], Any]], Any]
# 100,000 rows take as long as in one piece; 1,000 rows of 50 kB take 50 MB.
CHUNK_ROWS = 1000


def count(items: Any, at: Position) -> int | None:
    """Returns how many items there are with those done; None for an iterator or generator, which has no length."""
    if isinstance(items, QuerySet):
        return Rows(items).count(at)
    return len(items) if hasattr(items, "__len__") else None


def require_order(items: Any) -> None:
    """Raises TypeError for items that may come in another order in the next run, and so be lost."""
    if isinstance(items, AbstractSet) and not isinstance(items, Reversible | MappingView):
        raise TypeError(
            f"iterate() resumes by position, and a {type(items).__name__} has no order: another process walks it in "
            "another one. Give it a list, such as sorted(items)."
        )
    if isinstance(items, RawQuerySet) and "order by" not in str(items.raw_query).lower():
        raise TypeError(
            "iterate() resumes by position, and this raw query has no ORDER BY: the next run may get its rows in "
            "another order. Add one that no two rows share, such as the primary key."
        )


def items_from(items: Iterable[T], at: Position, read: Read) -> Iterator[tuple[T, Position]]:
    """Yields the items after `at`, each with the position that is reached after it is done."""
    if isinstance(items, QuerySet):
        for rows in Rows(items).chunks(at, read):
            yield from rows
    else:
        yield from _numbered(items, at)


async def aitems_from(items: Any, at: Position, read: Read) -> AsyncIterator[tuple[Any, Position]]:
    """See items_from(); takes async iterables too."""
    if isinstance(items, QuerySet):
        chunks = Rows(items).chunks(at, read)
        while (rows := await sync_to_async(lambda: next(chunks, None))()) is not None:
            for row in rows:
                yield row
    elif isinstance(items, AsyncIterable):
        done = 0
        async for item in items:
            done += 1
            if done > at.done:
                yield item, Position(done)
    else:
        for pair in _numbered(items, at):
            yield pair


def _numbered(items: Any, at: Position) -> Iterator[tuple[Any, Position]]:
    is_sliced = isinstance(items, list | tuple | range)
    rest = items[at.done :] if is_sliced else islice(items, at.done, None)
    for done, item in enumerate(rest, at.done + 1):
        yield item, Position(done)


class Rows:
    """The rows of a queryset. Raises ValueError for one without an order that can be given none."""

    def __init__(self, given: QuerySet[Any]) -> None:
        self._is_by_key = _is_by_key(given)
        self._rows = _in_total_order(given)
        self._key_of: Any = _key_reader(given)

    def count(self, at: Position) -> int:
        """Returns the number of rows, with those done."""
        if at.after is None or not self._is_by_key:
            return self._rows.count()
        left, rows = self._left(at), self._after(at)
        return at.done + (rows if left is None else rows[:left]).count()

    def chunks(self, at: Position, read: Read) -> Iterator[Iterable[tuple[Any, Position]]]:
        """Yields the rows after `at`, each with the position that is reached after it is done."""
        if self._is_by_key:
            yield from self._chunks_by_key(at, read)
        else:
            rows = read(self._rows.db, lambda: list(self._rows[at.done :]))
            yield zip(rows, map(Position, range(at.done + 1, at.done + 1 + len(rows))), strict=True)

    def _chunks_by_key(self, at: Position, read: Read) -> Iterator[Iterable[tuple[Any, Position]]]:
        while (left := self._left(at)) is None or left > 0:
            size = CHUNK_ROWS if left is None else min(left, CHUNK_ROWS)
            # Without a key the number counts: at the start of the loop, and if an older version has saved the position.
            skipped = self._rows.query.low_mark + at.done if at.after is None else 0
            rows = read(self._rows.db, partial(list, self._after(at)[skipped : skipped + size]))
            if not rows:
                return
            keys = [key if type(key) is int else str(key) for key in map(self._key_of, rows)]
            until = at.until
            if until is None:
                # Rows that the loop itself adds at the end do not keep it running forever.
                until = keys[-1] if len(rows) < size else read(self._rows.db, self._last_key)
            positions = map(Position, range(at.done + 1, at.done + 1 + len(rows)), keys, repeat(until))
            at = Position(at.done + len(rows), keys[-1], until)
            yield zip(rows, positions, strict=False)
            if len(rows) < size:
                return

    def _left(self, at: Position) -> int | None:
        """Returns how many rows of a slice are left; None without an end."""
        query = self._rows.query
        return None if query.high_mark is None else query.high_mark - query.low_mark - at.done

    def _after(self, at: Position) -> QuerySet[Any]:
        """Returns the rows after a position, without the limits of a slice."""
        rows, pk = self._rows.all(), _pk_of(self._rows)
        rows.query.clear_limits()
        is_descending = str(rows.query.order_by[0]).startswith("-") == rows.query.standard_ordering
        if at.after is not None:
            key = pk.to_python(at.after)
            rows = rows.filter(pk__lt=key) if is_descending else rows.filter(pk__gt=key)
        if at.until is not None:
            key = pk.to_python(at.until)
            rows = rows.filter(pk__gte=key) if is_descending else rows.filter(pk__lte=key)
        return rows

    def _last_key(self) -> int | str | None:
        keys = self._after(Position()).prefetch_related(None).reverse().values_list("pk", flat=True)
        return next((key if type(key) is int else str(key) for key in keys[:1]), None)


def _pk_of(rows: QuerySet[Any]) -> Any:
    """Returns the field whose values the primary key has: that of the parent, in a model that inherits."""
    field: Any = rows.model._meta.pk  # noqa: SLF001 - documented
    while getattr(field, "remote_field", None) is not None:
        field = field.target_field
    return field


def _given_order(rows: QuerySet[Any]) -> tuple[Any, ...]:
    """Returns its own order, or else that of its model, which Django leaves out where it groups."""
    query = rows.query
    if own := tuple(query.extra_order_by) or tuple(query.order_by):
        return own
    return tuple(query.get_meta().ordering or ()) if rows.ordered and query.default_ordering else ()


def _in_total_order(rows: QuerySet[Any]) -> QuerySet[Any]:
    query, order = rows.query, _given_order(rows)
    if any(each == "?" or isinstance(getattr(each, "expression", each), Random) for each in order):
        raise ValueError(
            'iterate() resumes by position, and this queryset is ordered at random: order it by "pk".'
        )
    if not order and (query.combinator or query.is_sliced):
        what = "was sliced" if query.is_sliced else f"is a {query.combinator}"
        raise ValueError(
            f"iterate() resumes by position, and this queryset has no order and {what}, so that it can be given none: "
            'add .order_by("pk"), before the slice if there is one.'
        )
    if query.combinator or query.extra_order_by:
        return rows
    ordered = rows.all()
    ordered.query.clear_ordering(force=True)
    if _is_by_key(rows):
        ordered.query.add_ordering(*(order or ("pk",)))
    else:
        ordered.query.add_ordering(*(order or query.distinct_fields), *_tie_breakers(rows))
    return ordered


def _tie_breakers(rows: QuerySet[Any]) -> tuple[str, ...]:
    """Returns columns by which no two different rows are equal. A grouped or distinct values() would get other rows
    with its primary key, so it is ordered by all that it selects."""
    query = rows.query
    selected = (*query.values_select, *query.annotation_select)
    if not _is_of_instances(rows) and (query.group_by or query.distinct):
        return selected
    return ("pk", *selected) if _may_repeat_rows(rows) else ("pk",)


def _is_by_key(rows: QuerySet[Any]) -> bool:
    """Returns whether the rows are ordered by their primary key alone, each has it, and no two have the same."""
    query, order, pk = rows.query, _given_order(rows), _pk_of(rows)
    can_be_stored = isinstance(pk, IntegerField | UUIDField | CharField) and not hasattr(pk, "from_db_value")
    if not can_be_stored or query.combinator or query.distinct_fields or _key_reader(rows) is None:
        return False
    if query.extra_order_by or _may_repeat_rows(rows) or (query.group_by and not _is_of_instances(rows)):
        return False
    # A window would see the rows of one chunk only.
    annotations: list[Any] = list(query.annotations.values())
    if any(each.contains_over_clause for each in (query.where, *annotations)):
        return False
    names = [f"{sign}{name}" for sign in ("", "-") for name in _names_of_pk(rows)]
    return not order or (len(order) == 1 and order[0] in names)


def _names_of_pk(rows: QuerySet[Any]) -> tuple[str, ...]:
    pk: Any = rows.model._meta.pk  # noqa: SLF001 - documented
    return ("pk", pk.name, pk.attname)


def _is_of_instances(rows: QuerySet[Any]) -> bool:
    return issubclass(rows._iterable_class, ModelIterable)  # noqa: SLF001 - nothing else says it


def _key_reader(rows: QuerySet[Any]) -> Callable[[Any], Any] | None:
    """Returns what reads the primary key of a row; None where the rows have none."""
    kind, query = rows._iterable_class, rows.query  # noqa: SLF001 - nothing else says it
    if issubclass(kind, ModelIterable):
        return attrgetter("pk")
    name = next((name for name in query.values_select if name in _names_of_pk(rows)), None)
    if name is None or query.extra_select or query.annotation_select:
        return None
    if kind is FlatValuesListIterable:
        return lambda row: row
    if kind in (ValuesListIterable, NamedValuesListIterable):
        return itemgetter(query.values_select.index(name))
    return itemgetter(name) if kind is ValuesIterable else None


def _may_repeat_rows(rows: QuerySet[Any]) -> bool:
    """Returns whether a join may give a row of the model more than once."""
    query = rows.query
    joins = [join for alias, join in query.alias_map.items() if query.alias_refcount[alias]]
    fields = [join.join_field for join in joins if isinstance(join, Join)]
    if all(isinstance(field, ForeignKey | OneToOneRel) for field in fields) and not query.extra_tables:
        return False
    annotations = query.annotation_select.values()
    if query.group_by and _is_of_instances(rows):
        return not all(each.contains_aggregate for each in annotations)
    return not (query.distinct and _is_of_instances(rows) and not annotations)
