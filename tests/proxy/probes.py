"""Requests that must not be forwarded, each with the answer it gets. Used whole, cut, dribbled, and to check docs.

A head probe is refused before the backend sees anything; a body probe after a good head, so its backend connection has
been used and must never be used again.
"""

from typing import Final, NamedTuple

CANARY: Final = b"sk-canary-0123456789abcdef"
"""A credential that must never be found in a record; it is in every probe that has fields."""
_KEY: Final = b"Authorization: Bearer " + CANARY + b"\r\n"
HOST: Final = b"Host: client.test\r\n"
MAX_HEAD_BYTES: Final = 1024


class Probe(NamedTuple):
    """A request, and how it is answered."""

    name: str
    request: bytes
    status: int = 400
    code: str = "malformed_head"


def _get(name: str, *fields: bytes, line: bytes = b"GET /v1/models HTTP/1.1") -> Probe:
    return Probe(name, line + b"\r\n" + HOST + _KEY + b"".join(field + b"\r\n" for field in fields) + b"\r\n")


def _post(name: str, *fields: bytes, body: bytes = b"ab", status: int = 400, code: str = "malformed_head") -> Probe:
    head = b"POST /v1/x HTTP/1.1\r\n" + HOST + _KEY + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    return Probe(name, head + body, status, code)


def _line(name: str, line: bytes, fields: bytes = HOST + _KEY, status: int = 400, code: str = "malformed_head") -> Probe:
    return Probe(name, line + b"\r\n" + fields + b"\r\n", status, code)


LENGTHS: Final = (
    _post("length_twice", b"Content-Length: 2", b"Content-Length: 3"),
    _post("length_twice_equal", b"Content-Length: 2", b"Content-Length: 2"),
    _post("length_with_plus", b"Content-Length: +2"),
    _post("length_with_minus", b"Content-Length: -2"),
    _post("length_in_hex", b"Content-Length: 0x2"),
    _post("length_list", b"Content-Length: 2, 2"),
    _post("length_with_blank_inside", b"Content-Length: 2 2"),
    _post("length_empty", b"Content-Length:"),
    _post("length_not_a_number", b"Content-Length: two"),
    _post("length_with_point", b"Content-Length: 2.0"),
    _post("length_beyond_64_bits", b"Content-Length: 99999999999999999999999"),
    _post("length_of_64_bits", b"Content-Length: 18446744073709551615"),
    _post("length_with_hundreds_of_zeros", b"Content-Length: " + b"0" * 500 + b"2"),
    _post("length_with_space_before_colon", b"Content-Length : 2"),
    _post("length_folded", b"Content-Length:\r\n 2"),
    _post("length_after_bare_cr", b"X: 1\rContent-Length: 2"),
)

CODINGS: Final = (
    _post("chunked_and_length", b"Transfer-Encoding: chunked", b"Content-Length: 2", body=b"0\r\n\r\n"),
    _post("length_and_chunked", b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    _post("chunked_identity", b"Transfer-Encoding: chunked, identity"),
    _post("identity", b"Transfer-Encoding: identity"),
    _post("xchunked", b"Transfer-Encoding: xchunked"),
    _post("chunkedx", b"Transfer-Encoding: chunkedx"),
    _post("gzip_chunked", b"Transfer-Encoding: gzip, chunked", status=501, code="transfer_coding"),
    _post("gzip_then_chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", status=501, code="transfer_coding"),
    _post("chunked_twice_in_one", b"Transfer-Encoding: chunked, chunked"),
    _post("chunked_twice_in_two", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    _post("coding_empty", b"Transfer-Encoding:"),
    _post("coding_quoted", b'Transfer-Encoding: "chunked"'),
    _post("coding_with_vertical_tab", b"Transfer-Encoding: \x0bchunked"),
    _post("coding_with_space_before_colon", b"Transfer-Encoding : chunked"),
    _post("coding_folded", b"Transfer-Encoding:\r\n chunked"),
    _line("chunked_in_http_1_0", b"POST /v1/x HTTP/1.0", HOST + _KEY + b"Transfer-Encoding: chunked\r\n"),
)

FIELDS: Final = (
    _get("bare_cr_in_value", b"X: a\rb"),
    _get("bare_cr_at_end_of_value", b"X: a\r"),
    _get("bare_cr_hides_a_field", b"X: a\rAuthorization: Bearer " + CANARY),
    _get("bare_lf_between_fields", b"X: a\nY: b"),
    Probe("bare_lf_everywhere", b"GET /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer " + CANARY + b"\n\n"),
    Probe("bare_lf_after_the_line", b"GET /v1/models HTTP/1.1\n" + HOST + _KEY + b"\r\n"),
    Probe("bare_cr_everywhere", b"GET /v1/models HTTP/1.1\rHost: x\rAuthorization: Bearer " + CANARY + b"\r\r"),
    _get("folded_with_space", b"X: a", b" b"),
    _get("folded_with_tab", b"X: a", b"\tb"),
    _get("folded_credential", b"x-api-key:", b"\t" + CANARY),
    _get("folded_credential_at_its_middle", b"x-api-key: sk-", b" " + CANARY),
    _line("folded_at_first", b"GET /v1/models HTTP/1.1", b" X: a\r\n" + HOST),
    _get("nul_in_value", b"X: a\0b"),
    _get("nul_in_name", b"X\0: a"),
    _get("nul_before_credential", b"X: a\0x-api-key: " + CANARY),
    _get("control_character_in_value", b"X: a\x01b"),
    _get("escape_in_value", b"X: \x1b[31m"),
    _get("delete_in_value", b"X: a\x7f"),
    _get("space_before_colon", b"X : a"),
    _get("tab_before_colon", b"X\t: a"),
    _get("space_before_colon_of_credential", b"x-api-key : " + CANARY),
    _get("space_in_name", b"X Y: a"),
    _get("space_before_name", b"X: a", b"  x-api-key: " + CANARY),
    _get("name_empty", b": a"),
    _get("no_colon", b"abc"),
    _get("credential_without_colon", b"x-api-key " + CANARY),
    _get("name_of_eight_bits", b"X\xff: a"),
    _get("name_with_bracket", b"X[]: a"),
    _get("host_twice", b"Host: other.test"),
    _line("host_missing", b"GET /v1/models HTTP/1.1", _KEY),
    _line("host_with_space_before_colon", b"GET /v1/models HTTP/1.1", b"Host : x\r\n"),
)

LINES: Final = (
    _line("http_0_9", b"GET /v1/models", b""),
    Probe("http_0_9_without_empty_line", b"GET /v1/models?key=" + CANARY + b"\r\n"),
    _line("http_1_2", b"GET /v1/models HTTP/1.2"),
    _line("http_2_0", b"GET /v1/models HTTP/2.0"),
    Probe("http_2_preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _line("http_1_10", b"GET /v1/models HTTP/1.10"),
    _line("http_lower_case", b"GET /v1/models http/1.1"),
    _line("http_without_version", b"GET /v1/models HTTP/"),
    _line("rtsp", b"DESCRIBE /v1/models RTSP/1.0"),
    _line("method_lower_case", b"get /v1/models HTTP/1.1"),
    _line("method_unknown", b"FROBNICATE /v1/models HTTP/1.1"),
    _line("method_empty", b" /v1/models HTTP/1.1"),
    _line("method_with_colon", b"GET: /v1/models HTTP/1.1"),
    _line("target_empty", b"GET  HTTP/1.1"),
    _line("target_missing", b"GET HTTP/1.1"),
    _line("target_with_blank", b"GET /v1/a b HTTP/1.1"),
    _line("target_with_blank_in_key", b"GET /v1/models?key=sk- " + CANARY + b" HTTP/1.1"),
    _line("target_with_tab", b"GET /v1/a\tb HTTP/1.1"),
    _line("target_with_nul", b"GET /v1/a\0 HTTP/1.1"),
    _line("target_with_control_in_key", b"GET /v1/models?key=\x01" + CANARY + b" HTTP/1.1"),
    _line("target_of_eight_bits", b"GET /v1/\xff HTTP/1.1"),
    _line("target_is_an_authority", b"GET example.test:80 HTTP/1.1"),
    _line("target_is_relative", b"GET v1/models HTTP/1.1"),
    _line("target_of_another_scheme", b"GET ftp://x.test/ HTTP/1.1"),
    _line("target_without_authority", b"GET http:///v1/models HTTP/1.1"),
    _line("target_star", b"GET * HTTP/1.1"),
    _line("two_spaces", b"GET  /v1/models HTTP/1.1"),
    _line("tabs_between_parts", b"GET\t/v1/models\tHTTP/1.1"),
    _line("space_first", b" GET /v1/models HTTP/1.1"),
    _line("space_last", b"GET /v1/models HTTP/1.1 "),
    _line("connect", b"CONNECT x.test:443 HTTP/1.1", status=501, code="connect_not_supported"),
    _line("a_response", b"HTTP/1.1 200 OK"),
    Probe("garbage", bytes(range(255, 0, -1)) + b"\r\n\r\n"),
    Probe("ssh", b"SSH-2.0-OpenSSH_9.2\r\n"),
    Probe(
        "tls_client_hello",
        bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\0\0\x2e\xc0\x2c" + bytes(150),
        code="tls_on_plain_port",
    ),
)

SIZES: Final = (
    _get("head_too_large", b"X: " + b"x" * MAX_HEAD_BYTES)._replace(status=431, code="head_too_large"),
    Probe("head_endless", b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, 431, "head_too_large"),
    Probe("target_endless", b"GET /" + b"x" * MAX_HEAD_BYTES, 431, "head_too_large"),
    Probe(
        "credential_endless",
        b"GET / HTTP/1.1\r\nx-api-key: " + CANARY + b"x" * MAX_HEAD_BYTES,
        431,
        "head_too_large",
    ),
)

HEADS: Final = LENGTHS + CODINGS + FIELDS + LINES + SIZES


def _chunked(name: str, body: bytes) -> Probe:
    return _post(name, b"Transfer-Encoding: chunked", body=body, code="malformed_body")


BODIES: Final = (
    _chunked("size_not_hex", b"g\r\nab\r\n0\r\n\r\n"),
    _chunked("size_with_0x", b"0x2\r\nab\r\n0\r\n\r\n"),
    _chunked("size_negative", b"-1\r\nab\r\n0\r\n\r\n"),
    _chunked("size_with_plus", b"+2\r\nab\r\n0\r\n\r\n"),
    _chunked("size_with_underscore", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n"),
    _chunked("size_empty", b"\r\nab\r\n0\r\n\r\n"),
    _chunked("size_after_space", b" 2\r\nab\r\n0\r\n\r\n"),
    _chunked("size_before_space", b"2 \r\nab\r\n0\r\n\r\n"),
    _chunked("size_beyond_64_bits", b"10000000000000002\r\nab\r\n0\r\n\r\n"),
    _chunked("size_with_many_zeros", b"0" * 17 + b"2\r\nab\r\n0\r\n\r\n"),
    _chunked("size_line_with_lf_only", b"2\nab\r\n0\r\n\r\n"),
    _chunked("size_line_with_cr_only", b"2\rab\r\n0\r\n\r\n"),
    _chunked("size_line_with_nul", b"2\0\r\nab\r\n0\r\n\r\n"),
    _chunked("data_longer_than_size", b"2\r\nabc\r\n0\r\n\r\n"),
    _chunked("data_shorter_than_size", b"4\r\nab\r\n0\r\n\r\n"),
    _chunked("data_without_crlf", b"2\r\nab0\r\n\r\n"),
    _chunked("data_with_lf_only", b"2\r\nab\n0\r\n\r\n"),
    _chunked("data_with_cr_only", b"2\r\nab\r0\r\n\r\n"),
    _chunked("last_size_with_lf_only", b"2\r\nab\r\n0\n\r\n"),
    _chunked("end_with_lf_only", b"2\r\nab\r\n0\r\n\n"),
    _chunked("extension_with_lf_inside", b"2;a=\nb\r\nab\r\n0\r\n\r\n"),
    _chunked("extension_with_cr_inside", b"2;a=\rb\r\nab\r\n0\r\n\r\n"),
    _chunked("extension_endless", b"2;" + b"a" * 5000),
    _chunked("extension_without_semicolon", b"2 a\r\nab\r\n0\r\n\r\n"),
    _chunked("trailer_content_length", b"0\r\nContent-Length: 2\r\n\r\n"),
    _chunked("trailer_transfer_encoding", b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    _chunked("trailer_host", b"0\r\nHost: x\r\n\r\n"),
    _chunked("trailer_without_colon", b"0\r\nabc\r\n\r\n"),
    _chunked("trailer_with_space_before_colon", b"0\r\nX : a\r\n\r\n"),
    _chunked("trailer_folded", b"0\r\nX: a\r\n b\r\n\r\n"),
    _chunked("trailer_with_bare_cr", b"0\r\nX: a\rb\r\n\r\n"),
    _chunked("trailer_is_a_request", b"0\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"),
    _chunked("trailers_endless", b"0\r\n" + b"X: abcdefghijklmnopqrstuvwxyz\r\n" * 2500),
)
