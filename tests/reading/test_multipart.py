"""Multipart forms as a real client writes them: fields by value, files by name and size."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading import multipart
from llmdump.reading.multipart import Form, Part
from tests.reading.pieces import CUTS, each_byte, pieces

VALUES = st.text(alphabet="ab-\r\n=é", max_size=30)
FILES = st.binary(max_size=300) | st.lists(st.sampled_from([b"\r\n--", b"\r", b"\n", b"--", b"b", b"x"]), max_size=20).map(
    b"".join
)


def written(fields: dict[str, str], files: dict[str, tuple[str, bytes, str]], boundary: str = "b") -> tuple[str, bytes]:
    """Content type and body, by httpx2."""
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = httpx2.Request("POST", "http://backend/v1/audio/transcriptions", data=fields, files=files, headers=headers)
    return request.headers["content-type"], request.read()


@given(st.dictionaries(st.text(alphabet="ab_[]", min_size=1, max_size=5), VALUES, max_size=3), FILES, CUTS)
def test_what_a_client_writes_in_any_pieces(fields: dict[str, str], content: bytes, cuts: list[int]) -> None:
    # The boundary is one that the content may come close to, not one that it may have.
    if b"\n--bb" in content or any("\n--bb" in value for value in fields.values()):
        return
    content_type, body = written(fields, {"file": ("a.wav", content, "audio/wav")}, "bb")
    form = Form(content_type)
    for piece in pieces(body, cuts):
        form.feed(piece)
    expected = [Part(name, None, "", len(value.encode()), value.encode()) for name, value in fields.items()]
    assert form.finish() == [*expected, Part("file", "a.wav", "audio/wav", len(content), b"")]
    assert form.problem == ""


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_in_any_pieces_are_the_same(body: bytes, cuts: list[int]) -> None:
    body = body.replace(b"\x00", b"\r\n--b").replace(b"\x01", b"\n")
    whole, cut = Form("multipart/form-data; boundary=b"), Form("multipart/form-data; boundary=b")
    whole.feed(body)
    for piece in pieces(body, cuts):
        cut.feed(piece)
    assert (whole.finish(), whole.problem) == (cut.finish(), cut.problem)


BODY = (
    b'preamble\r\n--b  \r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b\nContent-Disposition: form-data; name="empty"\n\n\n'
    b"--b\r\ncontent-disposition: form-data; name=image; filename*=utf-8''caf%C3%A9.png\r\nContent-Type: image/png\r\n\r\n"
    b"\r\n--bogus\r\n--b--\r\nepilogue\r\n--b\r\n"
)


@pytest.mark.parametrize("cuts", [[], each_byte(BODY), [10, 20, 30, 150]])
def test_forms_by_hand(cuts: list[int]) -> None:
    form = Form('Multipart/Form-Data; charset=utf-8; Boundary="b"')
    for piece in pieces(BODY, cuts):
        form.feed(piece)
    assert form.finish() == [
        Part("model", None, "", 9, b"whisper-1"),
        Part("empty", None, "", 0, b""),
        Part("image", "café.png", "image/png", 9, b""),
    ]
    assert form.problem == ""


def test_a_cut_form_gives_what_is_there() -> None:
    content_type, body = written({"model": "whisper-1"}, {"file": ("a.wav", b"x" * 100, "audio/wav")})
    form = Form(content_type)
    form.feed(body[:-60])
    model, file = form.finish()
    assert (model.value, file.filename) == (b"whisper-1", "a.wav")
    assert 0 < file.size_bytes < 100
    assert form.problem == "cut"


def test_limits() -> None:
    content_type, body = written({"prompt": "p" * (multipart.VALUE_BYTES_MAX + 5)}, {"file": ("a", b"y", "text/plain")})
    form = Form(content_type)
    form.feed(body)
    prompt, file = form.finish()
    assert (len(prompt.value), prompt.size_bytes) == (multipart.VALUE_BYTES_MAX, multipart.VALUE_BYTES_MAX + 5)
    assert (file.size_bytes, form.problem) == (1, "limit")

    form = Form("multipart/form-data; boundary=b")
    form.feed(b"--b\r\n\r\n\r\n" * (multipart.PARTS_MAX + 9))
    assert (len(form.finish()), form.problem) == (multipart.PARTS_MAX, "limit")

    form = Form("multipart/form-data; boundary=b")
    form.feed(b"--b\r\nX: " + b"x" * multipart.HEADERS_BYTES_MAX)
    assert (form.finish(), form.problem) == ([], "limit")


def test_without_a_boundary_there_is_nothing() -> None:
    form = Form("multipart/form-data")
    form.feed(b"--\r\n\r\nx\r\n--")
    assert (form.finish(), form.problem) == ([], "damaged")


def test_parameters_of_header_values() -> None:
    assert multipart.parameters('form-data; name="a\\"b;c"; FileName=x.png ; broken="') == {
        "name": 'a"b;c',
        "filename": "x.png",
        "broken": "",
    }
