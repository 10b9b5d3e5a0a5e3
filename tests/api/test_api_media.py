"""Media within request bodies: every form that providers take, in the order in which they stand, and bodies that mean harm."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump_api import media
from llmdump_api.media import Medium

DATA = b"\x00\xffdata"
TEXT = base64.b64encode(DATA).decode()
URL = f"data:image/png;base64,{TEXT}"


def all_of(document: Any) -> list[Medium]:
    body = json.dumps(document).encode()
    found = []
    while (one := media.find(body, "application/json", len(found))) is not None:
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("part", "content_type"),
    [
        ({"type": "image_url", "image_url": {"url": URL}}, "image/png"),
        ({"type": "input_image", "image_url": URL}, "image/png"),
        ({"type": "input_audio", "input_audio": {"data": TEXT, "format": "mp3"}}, "audio/mp3"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": TEXT}}, "image/webp"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": TEXT}}, "application/pdf"),
        ({"inlineData": {"mimeType": "audio/wav", "data": TEXT}}, "audio/wav"),
        ({"inline_data": {"mime_type": "image/jpeg", "data": TEXT.rstrip("=")}}, "image/jpeg"),
        ({"type": "input_file", "file_data": f"data:application/pdf;name=a.pdf;base64,{TEXT}"}, "application/pdf"),
        ({"type": "image_url", "image_url": {"url": f"DATA:IMAGE/PNG;BASE64,{TEXT}"}}, "image/png"),
        ({"inlineData": {"mimeType": "image/svg+xml", "data": TEXT}}, "application/octet-stream"),
        ({"inlineData": {"mimeType": "text/html; charset=utf-8", "data": TEXT}}, "application/octet-stream"),
        ({"inlineData": {"mimeType": "image/png\r\nX: y", "data": TEXT}}, "application/octet-stream"),
    ],
)
def test_a_medium_of_every_form(part: Any, content_type: str) -> None:
    assert all_of({"messages": [{"content": [part]}]}) == [Medium(content_type, DATA)]


def test_they_are_numbered_as_they_stand() -> None:
    parts = [{"data": base64.b64encode(bytes([at])).decode(), "mimeType": "image/png"} for at in range(9)]
    document = {"a": [parts[0], {"b": parts[1], "a": [parts[2]]}], "0": parts[3:]}
    assert [one.content for one in all_of(document)] == [bytes([at]) for at in range(9)]


def test_links_and_what_is_no_base64_are_none() -> None:
    assert (
        all_of([{"url": "https://a.example/b.png"}, {"data": "!!!", "format": "wav"}, {"data": "x"}, "data:,x", 1, None]) == []
    )


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--X\r\n\r\n"
    b'--B\r\nContent-Disposition: form-data; name="image"; filename="b.svg"\r\n'
    b"Content-Type: image/svg+xml\r\n\r\n<svg/>\r\n--B--\r\n"
)


def test_files_of_a_form() -> None:
    kind = "multipart/form-data; boundary=B"
    assert media.find(FORM, kind, 0) == Medium("audio/wav", b"RIFF\r\n--X\r\n")
    assert media.find(FORM, kind, 1) == Medium("application/octet-stream", b"<svg/>")
    assert media.find(FORM, kind, 2) is None
    assert media.find(FORM, "multipart/form-data", 0) is None


@given(st.binary(max_size=300), st.sampled_from(["application/json", "multipart/form-data; boundary=B", "", "multipart/x"]))
def test_any_body_has_media_or_none(body: bytes, content_type: str) -> None:
    for whole in (body, b"--B\r\n" + body, b'{"data":"' + body + b'","format":"wav"}'):
        found = media.find(whole, content_type, 0)
        assert found is None or found.content_type in {*media.SAFE_TYPES, "application/octet-stream"}
