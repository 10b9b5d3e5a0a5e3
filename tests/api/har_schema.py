"""HAR 1.2 as a JSON schema, from the format's description; fields of one's own begin with an underscore, no others may be."""

from typing import Any


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT = {"type": "string"}
SIZE = {"type": "integer", "minimum": -1}
MS = {"type": "number", "minimum": 0}
MS_OR_NOT = {"anyOf": [MS, {"const": -1}]}
PAIR = _object({"name": TEXT, "value": TEXT}, comment=TEXT)
COOKIE = _object({"name": TEXT, "value": TEXT}, path=TEXT, domain=TEXT, expires=TEXT, httpOnly={}, secure={}, comment=TEXT)
POST_DATA = _object({"mimeType": TEXT}, text=TEXT, params=_list(_object({"name": TEXT}, value=TEXT)), comment=TEXT)
CONTENT = _object(
    {"size": {"type": "integer", "minimum": 0}, "mimeType": TEXT},
    compression={"type": "integer"}, text=TEXT, encoding={"const": "base64"}, comment=TEXT,
)  # fmt: skip
REQUEST = _object(
    {
        "method": TEXT, "url": {"type": "string", "pattern": "^[a-z]+://[^/]+/"}, "httpVersion": TEXT, "cookies": _list(COOKIE),
        "headers": _list(PAIR), "queryString": _list(PAIR), "headersSize": SIZE, "bodySize": SIZE,
    },
    postData=POST_DATA, comment=TEXT,
)  # fmt: skip
RESPONSE = _object(
    {
        "status": {"type": "integer"}, "statusText": TEXT, "httpVersion": TEXT, "cookies": _list(COOKIE),
        "headers": _list(PAIR), "content": CONTENT, "redirectURL": TEXT, "headersSize": SIZE, "bodySize": SIZE,
    },
    comment=TEXT,
)  # fmt: skip
TIMINGS = _object({"send": MS, "wait": MS, "receive": MS}, blocked=MS_OR_NOT, dns=MS_OR_NOT, connect=MS_OR_NOT, ssl=MS_OR_NOT)
ENTRY = _object(
    {
        "startedDateTime": {"type": "string", "format": "date-time"}, "time": MS, "request": REQUEST, "response": RESPONSE,
        "cache": _object({}, beforeRequest={}, afterRequest={}), "timings": TIMINGS,
    },
    pageref=TEXT, serverIPAddress=TEXT, connection=TEXT, comment=TEXT,
    _webSocketMessages=_list({
        "type": "object", "additionalProperties": False, "required": ["type", "time", "opcode", "data"],
        "properties": {"type": {"enum": ["send", "receive"]}, "time": MS, "opcode": {"enum": [1, 2]}, "data": TEXT},
    }),
    _eventSourceMessages=_list({
        "type": "object", "additionalProperties": False, "required": ["time", "eventName", "data"],
        "properties": {"time": MS, "eventName": TEXT, "data": TEXT},
    }),
)  # fmt: skip
NAMED = _object({"name": TEXT, "version": TEXT}, comment=TEXT)
HAR = _object({"log": _object({"version": {"const": "1.2"}, "creator": NAMED, "entries": _list(ENTRY)}, browser=NAMED)})
