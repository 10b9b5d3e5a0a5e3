"""What the proxy itself answers, in the backend's place. Pure."""

from typing import Final

import orjson

_REASONS: Final = {
    400: "Bad Request", 404: "Not Found", 408: "Request Timeout", 431: "Request Header Fields Too Large",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


def error_response(status: int, code: str, message: str, *, head_only: bool = False) -> bytes:
    """A whole response of ours. Its body has the shape that both the OpenAI and the Anthropic SDKs show to their user."""
    error = {"type": "llmdump_error", "code": code, "message": f"llmdump: {message}"}
    body = orjson.dumps({"type": "error", "error": error})
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else body)
