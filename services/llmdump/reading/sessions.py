"""Which earlier exchange a request goes on from, told without any help of the client: its history begins with theirs.

A client that goes on sends all that was said before and something more. So each request leaves *keys* by which a later
one may find it, and has *candidates*, the keys that its own parent would have left:

    <16 hex>     hash of its whole history, as api-log makes it: SHA-256 over the canonical array of its turns
    ~<16 hex>    the same of what is left when that is masked which moves from turn to turn: numbers, days and months in
                 system texts (a date, a build), system reminders in the user's, thoughts in the model's
    r:<id>       the response id, for `previous_response_id`
    ><16 hex>    a text that a tool call gave to an agent of its own; that agent's first message has it
    s:<id>       what the client calls its session

    history of the parent     u1                    →  key h(u1)
    history of the child      u1 a1 u2              →  candidates h(u1 a1), h(u1); key h(u1 a1 u2)

Both chains are hashed in one pass: the state after each turn is copied and closed with a bracket. `place` chooses among
the exchanges that an index found under the candidates:

1. Where the client names its session, only exchanges of that session count; the root is theirs, parent or not.
2. A previous response id; then the longest history, the strict hash before the masked one; of equals the latest.
3. The same history again is a retry or another try: it stands beside the first one, under the same parent and root.
   A first question alone may be asked twice by chance, so for it this holds for `RETRY_US` only.
4. A sub-agent hangs below the exchange whose tool call started it.

Keys of one API key never meet those of another: the index looks them up so.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from llmdump.reading.canonical import decode, encode, plain_content, without_marks
from llmdump.reading.hints import Hints
from llmdump.reading.turns import is_answer, is_system, new_text, texts_of, turns_of

# Of a longer history so many of its longest and shortest prefixes are looked for.
LONGEST_PREFIXES: Final = 192
SHORTEST_PREFIXES: Final = 8
RETRY_US: Final = 10 * 60 * 1_000_000
# Shorter ones ("continue") are nobody's own.
TASK_CHARS_MIN: Final = 20
TASKS_MAX: Final = 32

_HASH_CHARS: Final = 16
_MOVING_NUMBERS: Final = re.compile(rb"[a-fA-F]{0,32}[0-9][0-9A-Za-z]*")
_MOVING_WORDS: Final = tuple(
    word.encode()
    for word in (*(f"{day}day" for day in ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")),
                 "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                 "November", "December")
)  # fmt: skip
_REMINDER: Final = "<system-reminder>"
_REMINDER_END: Final = "</system-reminder>"
_THOUGHTS: Final = ("thinking", "redacted_thinking", "reasoning")
_TASK_KEYS: Final = ("prompt", "task", "message", "instructions", "description", "input", "request", "objective", "items")
_PASSING: Final = frozenset({"id", "status", "reasoning", "reasoning_content", "reasoning_details", "thoughtSignature"})


class Candidate(NamedTuple):
    """A key that the parent would have left."""

    key: str
    by: str
    """`response_id`, `prefix`, `masked_prefix`, `same`, `task` or `session`."""
    turns: int
    """How many of the request's turns the parent had."""


class Conversation(NamedTuple):
    """What is to be kept of a request, and looked for."""

    turns: list[Any]
    prefix_hash: str | None
    """Of the whole history; None if the request has none."""
    prefix_len: int | None
    keys: tuple[str, ...]
    """To be kept with the exchange; its answer adds those of `answer_keys`."""
    candidates: tuple[Candidate, ...]
    """The best first."""
    session: str | None
    is_first: bool
    """Whether no model has said anything in this history yet."""


class Found(NamedTuple):
    """An earlier exchange of the same API key that an index has under a candidate's key."""

    key: str
    exchange: str
    parent: str | None
    root: str
    depth: int
    at_us: int
    session: str | None = None


class Place(NamedTuple):
    """Where an exchange stands."""

    parent: str | None = None
    root: str | None = None
    """None: it is a root itself."""
    depth: int = 0
    by: str | None = None
    """The candidate's `by`; None: nothing was found."""
    known_turns: int = 0
    """Turns at the beginning that its parent had."""


def conversation(api: str | None, document: Any, hints: Hints) -> Conversation:
    """What a request leaves and looks for. `document` is its body as `canonical.decode` gives it."""
    turns = turns_of(api, document)
    previous_id = _previous_id(document)
    try:
        prefixes = _prefixes(turns)
    except RecursionError:
        turns, prefixes = [], []
    session = f"s:{hints.session}" if hints.session else None
    whole = prefixes[-1] if prefixes else None
    keys = (*((whole.strict, whole.masked) if whole else ()), *((session,) if session else ()))
    candidates = [
        *([Candidate(f"r:{previous_id}", "response_id", 0)] if previous_id else []),
        *_wanted(prefixes),
        *(Candidate(key, "task", 0) for key in _first_texts(turns)),
        *([Candidate(session, "session", 0)] if session else []),
    ]
    is_first = not any(map(is_answer, turns)) and previous_id is None
    return Conversation(turns, whole and whole.strict, whole and whole.turns, keys, tuple(candidates), hints.session, is_first)


def answer_keys(response_id: str | None, tool_calls: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The keys that an answer leaves: its id, and the tasks that its tool calls (name, id, arguments as JSON) give away."""
    tasks = [text for call in tool_calls[:TASKS_MAX] for text in _tasks(call.get("arguments"))]
    own = [f"r:{response_id}"] if response_id else []
    return tuple(dict.fromkeys([*own, *map(_task_key, tasks[:TASKS_MAX])]))


def place(asked: Conversation, found: Sequence[Found], at_us: int) -> Place:
    """Where the request that came at `at_us` stands, among what an index found under its candidates' keys."""
    pool = [item for item in found if item.at_us < at_us and (asked.session is None or item.session == asked.session)]
    latest = {item.key: item for item in sorted(pool, key=lambda item: item.at_us)}
    for candidate in asked.candidates:
        item = latest.get(candidate.key)
        if item is None or _is_chance(asked, candidate, item, at_us):
            continue
        if candidate.by == "session":
            return Place(None, item.root, 0, "session")
        if candidate.by == "same":
            return Place(item.parent, item.root, item.depth, "same", candidate.turns)
        return Place(item.exchange, item.root, item.depth + 1, candidate.by, candidate.turns)
    return Place()


def prompt_new(asked: Conversation, where: Place) -> str:
    """What the request says that its parent had not heard: the text to be searched. A system text is new only once."""
    turns = asked.turns[where.known_turns :] if where.by != "same" else asked.turns[-1:]
    if where.by in ("response_id", "session"):
        turns = [turn for turn in turns if not is_system(turn)]
    return new_text(turns, 0)


def _is_chance(asked: Conversation, candidate: Candidate, item: Found, at_us: int) -> bool:
    return candidate.by == "same" and asked.is_first and asked.session is None and at_us - item.at_us > RETRY_US


def _previous_id(document: Any) -> str | None:
    if not isinstance(document, dict):
        return None
    found = document.get("previous_response_id") or document.get("previous_interaction_id")
    return found[:256] if isinstance(found, str) and found else None


class _Prefix(NamedTuple):
    turns: int
    strict: str
    masked: str
    has_more: bool
    """Whether masking left anything of its last turn."""


def _prefixes(turns: list[Any]) -> list[_Prefix]:
    """The hashes of the prefixes that are looked for, the shortest first, and last those of the whole history."""
    strict, masked = hashlib.sha256(b"["), hashlib.sha256(b"[")
    longest_from = len(turns) - LONGEST_PREFIXES
    prefixes = []
    for length, turn in enumerate(turns, 1):
        encoded = _encoded(turn)
        strict.update(b"," + encoded if length > 1 else encoded)
        bare = _masked(turn, encoded)
        if bare:
            masked.update(bare + b",")
        if length <= SHORTEST_PREFIXES or length >= longest_from:
            prefixes.append(_Prefix(length, _closed(strict), "~" + _closed(masked), bool(bare)))
    return prefixes


def _closed(state: Any) -> str:
    closed = state.copy()
    closed.update(b"]")
    digest: str = closed.hexdigest()
    return digest[:_HASH_CHARS]


def _wanted(prefixes: list[_Prefix]) -> Iterator[Candidate]:
    """The parent's keys by its history, the longest first; at last those of this very history."""
    for prefix in prefixes[-2::-1]:
        yield Candidate(prefix.strict, "prefix", prefix.turns)
        if prefix.has_more:
            yield Candidate(prefix.masked, "masked_prefix", prefix.turns)
    for prefix in prefixes[-1:]:
        yield Candidate(prefix.strict, "same", prefix.turns)
        yield Candidate(prefix.masked, "same", prefix.turns)


def _first_texts(turns: list[Any]) -> list[str]:
    """The keys of the texts in the first thing that was asked."""
    first = next((turn for turn in turns if not is_system(turn)), None)
    texts = [text.strip() for text in texts_of(first)] if first is not None and not is_answer(first) else []
    return list(dict.fromkeys(_task_key(text) for text in texts if len(text) >= TASK_CHARS_MIN))[:TASKS_MAX]


def _tasks(arguments: Any) -> Iterator[str]:
    """The texts in a tool call's arguments that may be the first message to another agent."""
    decoded = decode(arguments.encode(errors="replace")) if isinstance(arguments, str) else arguments
    values = [decoded.get(key) for key in _TASK_KEYS] if isinstance(decoded, dict) else []
    for value in values:
        for text in texts_of(value):
            if len(text.strip()) >= TASK_CHARS_MIN:
                yield text.strip()


def _task_key(text: str) -> str:
    return ">" + hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_HASH_CHARS]


def _encoded(turn: Any) -> bytes:
    encoded = encode(_plain(turn))
    return encode(_plain(without_marks(turn))) if b'"cache_control":' in encoded else encoded


def _plain(turn: Any) -> Any:
    """The turn, its content as a text where it is no more."""
    if isinstance(turn, dict) and isinstance(turn.get("content"), list):
        content = plain_content(turn["content"])
        return turn if content is turn["content"] else {**turn, "content": content}
    return turn


def without_moving_words(text: bytes) -> bytes:
    """A text without what dates and builds change in it: numbers, days and months."""
    for word in _MOVING_WORDS:
        text = text.replace(word, b"0")
    return _MOVING_NUMBERS.sub(b"0", text)


def _masked(turn: Any, encoded: bytes) -> bytes:
    """The turn without what moves; empty if nothing is left of it."""
    if not isinstance(turn, dict):
        return encoded
    if is_system(turn):
        return without_moving_words(encoded)
    if turn.get("type") == "reasoning":
        return b""
    if _PASSING.isdisjoint(turn) and not _moves(turn.get("content", turn.get("parts"))):
        return encoded
    kept = {key: value for key, value in without_marks(turn).items() if key not in _PASSING}
    for key in ("content", "parts"):
        if isinstance(kept.get(key), list):
            kept[key] = plain_content([part for part in map(_bare, kept[key]) if part is not None])
        elif isinstance(kept.get(key), str):
            kept[key] = _without_reminders(kept[key])
    return encode(kept)


def _moves(content: Any) -> bool:
    """Whether there is anything in it to be masked."""
    if isinstance(content, str):
        return _REMINDER in content
    return isinstance(content, list) and any(_bare(part) is not part for part in content)


def _bare(part: Any) -> Any:
    """A part of a message without what moves; None if it is nothing else."""
    if not isinstance(part, dict):
        return part
    if part.get("type") in _THOUGHTS or part.get("thought") is True or "reasoningContent" in part:
        return None
    text = part.get("text")
    reminds = isinstance(text, str) and _REMINDER in text
    if not reminds and _PASSING.isdisjoint(part):
        return part
    kept = {key: value for key, value in part.items() if key not in _PASSING or key == "id"}
    if reminds:
        kept["text"] = _without_reminders(kept["text"])
    return kept if kept.get("text") != "" else None


def _without_reminders(text: str) -> str:
    kept, at = [], 0
    while (start := text.find(_REMINDER, at)) >= 0 and (end := text.find(_REMINDER_END, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(_REMINDER_END)
    return "".join([*kept, text[at:]]).strip()
