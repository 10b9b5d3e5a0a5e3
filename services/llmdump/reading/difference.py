"""Two requests compared as a model's cache sees them: what changed first, of what kind, and where. Pure.

Compared are the parts of both (see `request_parts`) by their canonical values, as for sessions: `cache_control` marks, a text
written as a list of one, and spelling do not change a prompt. Where they are all that differs, that is told as what it is.

Parameters and tools are found again by their names, system texts and messages by their order. A place is a JSON pointer into
each request body, and a character in the text there, counted in code points.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple

from llmdump.reading.canonical import DEPTH_MAX, decode, encode, without_marks
from llmdump.reading.request_parts import Part, parts, pointer
from llmdump.reading.sessions import without_moving_words

DIFFERENCES_MAX: Final = 100
ALIGNED_PARTS_MAX: Final = 500
"""Between the first and the last difference, to be aligned; of more, each is compared with the one at the same place."""
EXCERPT_BEFORE: Final = 24
EXCERPT_CHARS: Final = 72
_TURNS: Final = frozenset({"system", "message"})
_MISSING: Final = object()


class Difference(NamedTuple):
    """One that was found."""

    kind: str
    """`added`, `removed`, `order` (of tools), `role`, `text`, `date` (nothing but numbers, days or months in a text), `value`,
    `shape`, `cache_control`, `spelling`, or `body` (where one is no JSON object)."""
    what: str
    """As of a part; or `body`."""
    name: str
    a_pointer: str | None
    b_pointer: str | None
    character: int | None
    """In the texts at the pointers; with `body` and `spelling` the byte."""
    a: str | None
    """What is there, an excerpt."""
    b: str | None
    ends_cache: bool
    """Whether what follows cannot be read from the cache any more."""


class Compared(NamedTuple):
    """Two requests, compared."""

    differences: list[Difference]
    """In order, `DIFFERENCES_MAX` at most."""
    is_cut: bool
    """There are more."""
    relation: str
    """As prompts: `same`, `continues` (b is a and more), `begins` (a is b and more) or `differs`."""
    same_messages: int
    """Equal ones, from the beginning."""
    a_messages: int
    b_messages: int
    prefix_bytes: int
    """Of the canonical prompt, equal from the beginning."""
    shared_bytes: int
    """Of what b has and a had too, wherever it stands."""
    b_bytes: int

    @property
    def first(self) -> Difference | None:
        """The first that ends the cache, else the first of all."""
        return next((one for one in self.differences if one.ends_cache), self.differences[0] if self.differences else None)


def compare(a: bytes, b: bytes, api: str | None = None) -> Compared:
    """Two request bodies without Content-Encoding. `api` is what they asked, if it is known. Does not raise."""
    documents = [decode(body) for body in (a, b)]
    if not all(isinstance(document, dict) for document in documents):
        return _bodies(a, b)
    try:
        mine, theirs = (list(parts(document, api)) for document in documents)
        found = list(_differences(mine, theirs))
    except RecursionError:
        return _bodies(a, b)
    if not found and a != b:
        found = [_of_bytes("spelling", a, b)]
    measured = _measured([part for part in mine if part.is_prompt], [part for part in theirs if part.is_prompt])
    return Compared(found[:DIFFERENCES_MAX], len(found) > DIFFERENCES_MAX, *measured)


def _bodies(a: bytes, b: bytes) -> Compared:
    found = [] if a == b else [_of_bytes("body", a, b)]
    same = same_length(a, b)
    return Compared(found, False, "differs" if found else "same", 0, 0, 0, same, same, len(b))


def _of_bytes(kind: str, a: bytes, b: bytes) -> Difference:
    at = same_length(a, b)
    one, other = (
        _excerpt(body[max(0, at - EXCERPT_BEFORE) : at + EXCERPT_CHARS].decode("utf-8", "replace"), 0) for body in (a, b)
    )
    return Difference(kind, "body", "", "", "", at, one, other, ends_cache=kind == "body")


def same_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many characters, bytes or items are the same from the beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# --- what differs


def _differences(a: list[Part], b: list[Part]) -> Iterator[Difference]:
    yield from _of_named(*([part for part in one if part.is_prompt and part.what in {"model", "parameter"}] for one in (a, b)))
    yield from _of_named(*([part for part in one if part.what == "tool"] for one in (a, b)))
    yield from _of_turns(*([part for part in one if part.what in _TURNS] for one in (a, b)))
    yield from _of_named(*([part for part in one if not part.is_prompt] for one in (a, b)))


def _of_named(a: list[Part], b: list[Part]) -> Iterator[Difference]:
    """Of parts that are found again by their names, in the order in which they stand."""
    mine, theirs = _by_name(a), _by_name(b)
    common, order = [name for name in mine if name in theirs], [name for name in theirs if name in mine]
    places = {name: at for at, name in enumerate(mine)} | {name: at for at, name in enumerate(theirs)}
    found = [(places[name], _removed(part)) for name, part in mine.items() if name not in theirs]
    found += [(places[name], _added(part)) for name, part in theirs.items() if name not in mine]
    moved = same_length(common, order)
    if moved < len(order) and b[0].what == "tool":
        found.append((places[order[moved]], _of_order(mine[common[moved]], theirs[order[moved]])))
    found += [(places[name], one) for name in common for one in _of_pair(mine[name], theirs[name])]
    yield from (one for _, one in sorted(found, key=lambda pair: pair[0]))


def _by_name(own: list[Part]) -> dict[tuple[str, str, int], Part]:
    """By what they are called; of those with the same name each by its number."""
    seen: Counter[tuple[str, str]] = Counter()
    named = {}
    for part in own:
        named[part.what, part.name, seen[part.what, part.name]] = part
        seen[part.what, part.name] += 1
    return named


def _of_turns(a: list[Part], b: list[Part]) -> Iterator[Difference]:
    """Of parts that are found again by their order."""
    begin = same_length([part.spelt for part in a], [part.spelt for part in b])
    for one, other in zip(a[:begin], b[:begin], strict=True):
        yield from _of_pair(one, other)
    mine, theirs = a[begin:], b[begin:]
    goes_on = not mine or not theirs  # then one prompt is the beginning of the other
    for some, others in _aligned(mine, theirs):
        pairs = min(len(some), len(others))
        for one, other in zip(some[:pairs], others[:pairs], strict=True):
            yield from _of_pair(one, other)
        yield from (_removed(part, ends_cache=not goes_on) for part in some[pairs:])
        yield from (_added(part, ends_cache=not goes_on) for part in others[pairs:])


def _aligned(a: list[Part], b: list[Part]) -> Iterator[tuple[list[Part], list[Part]]]:
    """Runs of parts that take each other's place."""
    if max(len(a), len(b)) > ALIGNED_PARTS_MAX:
        yield a, b
        return
    matcher = SequenceMatcher(None, [part.spelt for part in a], [part.spelt for part in b], autojunk=False)
    for _, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        yield a[a_from:a_to], b[b_from:b_to]


def _removed(part: Part, *, ends_cache: bool = True) -> Difference:
    shown = _shown(part.value)
    return Difference("removed", part.what, part.name, part.pointer, None, None, shown, None, ends_cache and part.is_prompt)


def _added(part: Part, *, ends_cache: bool = True) -> Difference:
    shown = _shown(part.value)
    return Difference("added", part.what, part.name, None, part.pointer, None, None, shown, ends_cache and part.is_prompt)


def _of_order(a: Part, b: Part) -> Difference:
    return Difference("order", b.what, b.name, a.pointer, b.pointer, None, a.name, b.name, ends_cache=True)


def _of_pair(a: Part, b: Part) -> Iterator[Difference]:
    """The first difference of two parts that take each other's place."""
    if a.spelt != b.spelt:
        yield _leaf(a, b)
    elif a.value != b.value:
        is_marked = any(encode(part.value) != encode(without_marks(part.value)) for part in (a, b))
        one, other = _shown(a.value), _shown(b.value)
        kind = "cache_control" if is_marked else "shape"
        yield Difference(kind, b.what, b.name, a.pointer, b.pointer, None, one, other, ends_cache=False)


# --- where


class _Spot(NamedTuple):
    """A value within a part."""

    value: Any
    pointer: str

    def at(self, key: Any) -> "_Spot":
        """A member or an item of it, if there is one."""
        there = key in self.value if isinstance(self.value, dict) else key < len(self.value)
        return _Spot(self.value[key] if there else _MISSING, pointer(self.pointer, key))


def _leaf(a: Part, b: Part) -> Difference:
    """The first place at which two parts differ."""
    one, other, key = _Spot(without_marks(a.value), a.pointer), _Spot(without_marks(b.value), b.pointer), ""
    for _ in range(DEPTH_MAX):
        below = _below(one, other)
        if below is None:
            break
        one, other, key = below
    at = same_length(one.value, other.value) if isinstance(one.value, str) and isinstance(other.value, str) else None
    a_pointer, b_pointer = (None if spot.value is _MISSING else spot.pointer for spot in (one, other))
    shown = _shown(one.value, at or 0), _shown(other.value, at or 0)
    return Difference(_kind(key, one.value, other.value), b.what, b.name, a_pointer, b_pointer, at, *shown, b.is_prompt)


def _kind(key: str, a: Any, b: Any) -> str:
    if _MISSING in (a, b):
        return "added" if a is _MISSING else "removed"
    if isinstance(a, str) and isinstance(b, str):
        masked = [without_moving_words(text.encode(errors="replace")) for text in (a, b)]
        return "role" if key == "role" else "date" if masked[0] == masked[1] else "text"
    return "value" if type(a) is type(b) or not {type(a), type(b)} & {list, dict} else "shape"


def _below(a: _Spot, b: _Spot) -> tuple[_Spot, _Spot, str] | None:
    """One level down, where the first member or item differs; None where there is nothing to go down to."""
    if isinstance(a.value, dict) and isinstance(b.value, dict):
        keys = (key for key in {**a.value, **b.value} if a.at(key).value is _MISSING or a.at(key).value != b.at(key).value)
        key = next(keys, None)
        return None if key is None else (a.at(key), b.at(key), str(key))
    if isinstance(a.value, list) and isinstance(b.value, list):
        at = same_length(a.value, b.value)
        return (a.at(at), b.at(at), "") if at < max(len(a.value), len(b.value)) else None
    one, other = _as_text(a), _as_text(b)
    if (one, other) != (a, b) and one is not None and other is not None and one.value != other.value:
        return one, other, ""
    return None


def _as_text(spot: _Spot) -> _Spot | None:
    """A text; also where it is that of a block, or of the first block of a list."""
    if isinstance(spot.value, list) and spot.value:
        spot = spot.at(0)
    if isinstance(spot.value, dict) and isinstance(spot.value.get("text"), str):
        spot = spot.at("text")
    return spot if isinstance(spot.value, str) else None


def _shown(value: Any, at: int = 0) -> str | None:
    if value is _MISSING:
        return None
    return _excerpt(value if isinstance(value, str) else encode(value).decode("utf-8", "replace"), at)


def _excerpt(text: str, at: int) -> str:
    begin = max(0, at - EXCERPT_BEFORE)
    return text[begin : begin + EXCERPT_CHARS]


# --- how much


def _measured(a: list[Part], b: list[Part]) -> tuple[str, int, int, int, int, int, int]:
    """Relation, messages, and bytes of two prompts."""
    mine, theirs = [part.spelt for part in a], [part.spelt for part in b]
    same = same_length(mine, theirs)
    prefix = sum(map(len, theirs[:same]))
    shared = prefix + sum(_shared(mine[same:], theirs[same:]))
    if same < min(len(mine), len(theirs)) and b[same].what in _TURNS:
        prefix += same_length(mine[same], theirs[same])
    relation = {(True, True): "same", (True, False): "continues", (False, True): "begins"}.get(
        (same == len(mine), same == len(theirs)), "differs"
    )
    messages = (sum(part.what == "message" for part in own) for own in (b[:same], a, b))
    return relation, *messages, prefix, max(prefix, shared), sum(map(len, theirs))  # type: ignore[return-value]


def _shared(a: list[bytes], b: list[bytes]) -> Iterator[int]:
    """Of each part of b, how much of it a had: all of it anywhere, or its beginning and end at the same place."""
    there = Counter(a)
    for at, one in enumerate(b):
        if there[one] > 0:
            there[one] -= 1
            yield len(one)
        elif at < len(a):
            begin = same_length(a[at], one)
            yield begin + same_length(a[at][begin:][::-1], one[begin:][::-1])
