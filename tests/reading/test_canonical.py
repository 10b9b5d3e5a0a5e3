"""The canonical spelling: what Go's encoding/json writes for a decoded value, taken down from Go 1.26."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.canonical import decode, encode, plain_content, without_marks

SPELLINGS = [
    (b' { "b" : 1 , "a" : [ true , null ] } ', b'{"a":[true,null],"b":1}'),
    (b'{"a":1,"a":2}', b'{"a":2}'),
    ('{"é":1,"z":2,"\U0001f600":3,"\uffff":4}'.encode(), '{"z":2,"é":1,"\uffff":4,"\U0001f600":3}'.encode()),
    ('"a<b & c>d 你好\u2028\u2029"'.encode(), '"a\\u003cb \\u0026 c\\u003ed 你好\\u2028\\u2029"'.encode()),
    (b'"\\u003c\\/\\u00e9\\b\\f\\n\\u0001\\u007f"', b'"\\u003c/\xc3\xa9\\b\\f\\n\\u0001\x7f"'),
    (b'"\\ud800x\\udc00\\ud83d\\ude00"', '"\ufffdx\ufffd\U0001f600"'.encode()),
    (b'"\xff\xc3"', '"\ufffd\ufffd"'.encode()),
    (b"[1.0,-0.0,0.00001,1e-6,1e-7,-1.5e-7]", b"[1,-0,0.00001,0.000001,1e-7,-1.5e-7]"),
    (b"[1E5,1e20,1e21,1.5e21,123456.789,1e300]", b"[100000,100000000000000000000,1e+21,1.5e+21,123456.789,1e+300]"),
    (b"[1.2345678901234567e19]", b"[12345678901234567000]"),
]


@pytest.mark.parametrize(("body", "spelling"), SPELLINGS)
def test_spelling_is_that_of_go(body: bytes, spelling: bytes) -> None:
    assert encode(decode(body)) == spelling


@pytest.mark.parametrize("spelling", [b"[9007199254740993,1.5]", b"[123456789012345678901234567890,1.5]"])
def test_whole_numbers_keep_their_digits(spelling: bytes) -> None:
    assert encode(decode(spelling)) == spelling


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"[" * 100_000, b'{"a":' * 5000, b'"' + b"\\ud800" * 10])
def test_what_is_no_json_is_none(body: bytes) -> None:
    assert decode(body) is None


def test_deep_values_are_spelt_or_refused() -> None:
    deep = b"[" * 300 + b"1" + b"]" * 300
    assert encode(decode(deep)) == deep


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_spelling_is_stable(value: Any) -> None:
    spelling = encode(value)
    assert decode(spelling) == value
    assert encode(decode(spelling)) == spelling


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_none(body: bytes) -> None:
    encode(decode(body))


def test_marks_go_at_any_depth() -> None:
    marked = {"content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, 1], "cache_control": 1}
    assert without_marks(marked) == {"content": [{"type": "text", "text": "x"}, 1]}


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ([{"type": "text", "text": "x"}], "x"),
        ([{"type": "text", "text": "x", "citations": []}], [{"type": "text", "text": "x", "citations": []}]),
        ([{"type": "text", "text": "x"}] * 2, [{"type": "text", "text": "x"}] * 2),
        ([{"type": "image", "text": "x"}], [{"type": "image", "text": "x"}]),
        ([], []), ("x", "x"), (None, None),
    ],
)  # fmt: skip
def test_one_plain_text_is_a_text(content: Any, plain: Any) -> None:
    assert plain_content(content) == plain
