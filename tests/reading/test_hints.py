"""What requests say of their session and user."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.hints import Hints, hints_of

UUID = "0199aaaa-7ab1-73c1-837e-1fa681f4462b"
CLAUDE = f"user_{'ab' * 32}_account_{UUID}_session_{UUID}"


@pytest.mark.parametrize(
    ("fields", "document", "hints"),
    [
        ([("X-Session-ID", "s1"), ("Helicone-Session-Id", "s2")], {}, Hints(session="s1")),
        ([("Helicone-Session-Id", " s2 "), ("Helicone-User-Id", "u")], None, Hints(session="s2", user="u")),
        ([("session_id", UUID), ("conversation_id", "other")], [], Hints(session=UUID)),
        ([("X-Claude-Code-Session-Id", UUID), ("X-Claude-Code-Agent-Id", "a1")], {}, Hints(session=UUID, agent="a1")),
        ([], {"metadata": {"user_id": CLAUDE}}, Hints(session=UUID, user=CLAUDE)),
        ([], {"metadata": {"user_id": f'{{"session_id":"{UUID}"}}'}}, Hints(session=UUID, user=f'{{"session_id":"{UUID}"}}')),
        ([], {"metadata": {"user_id": "{broken"}}, Hints(user="{broken")),
        ([], {"conversation": {"id": "conv_1"}, "user": "me"}, Hints(session="conv_1", user="me")),
        ([], {"conversation": "conv_2", "safety_identifier": "who", "user": "me"}, Hints(session="conv_2", user="who")),
        ([], {"prompt_cache_key": "k", "metadata": None, "user": 7}, Hints(cache_key="k")),
        ([("traceparent", f"00-{'0123456789abcdef' * 2}-286bef8a554b69a5-01")], {}, Hints(trace="0123456789abcdef" * 2)),
        ([("traceparent", f"00-{'0' * 32}-286bef8a554b69a5-01")], {}, Hints()),
        ([("X-Session-Id", "x" * 999)], {}, Hints(session="x" * 256)),
        ([("X-Session-Id", "")], {"session_id": "b"}, Hints(session="b")),
    ],
)
def test_hints(fields: list[tuple[str, str]], document: Any, hints: Hints) -> None:
    assert hints_of(fields, document) == hints


ANYTHING = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)
)
KEYS = st.sampled_from(["metadata", "user", "conversation", "prompt_cache_key", "session_id", "safety_identifier"])


@given(st.dictionaries(KEYS, ANYTHING | st.dictionaries(st.sampled_from(["user_id", "id"]), ANYTHING)))
def test_any_document_is_read(document: dict[str, Any]) -> None:
    assert all(value is None or isinstance(value, str) for value in hints_of([], document))
