"""What a request says about its conversation and its user, apart from the conversation itself.

    session   X-Session-Id, Helicone-Session-Id, X-Litellm-Session-Id, X-Claude-Code-Session-Id, X-Opencode-Session,
              Codex's Session_id and Conversation_id (Session-Id and Thread-Id of late), X-LLM-Session-Id;
              in the body `session_id`, a Responses `conversation`, and the session within Claude Code's metadata.user_id
    agent     X-Claude-Code-Agent-Id: a sub-agent of its own within a session
    user      Helicone-User-Id, X-Litellm-End-User-Id, X-User-Id, OpenAI's `safety_identifier` and `user`,
              Anthropic's metadata.user_id
    trace     the trace id of traceparent (W3C Trace Context, section 3.2)
    cache_key OpenAI's prompt_cache_key: Codex puts its conversation's id there, others one word for everything

Values are the client's own words: cut, and never more than a hint.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

VALUE_CHARS_MAX: Final = 256

_SESSION_FIELDS: Final = (
    "x-session-id", "helicone-session-id", "x-litellm-session-id", "x-llm-session-id", "x-claude-code-session-id",
    "x-opencode-session", "session_id", "session-id", "conversation_id", "conversation-id", "thread-id",
)  # fmt: skip
_USER_FIELDS: Final = ("helicone-user-id", "x-litellm-end-user-id", "x-user-id", "x-openwebui-user-id")
_TRACE: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_CLAUDE_SESSION: Final = re.compile(r"_session_([0-9A-Za-z-]{8,64})\Z")


class Hints(NamedTuple):
    """What was said; None where nothing was."""

    session: str | None = None
    agent: str | None = None
    user: str | None = None
    trace: str | None = None
    cache_key: str | None = None


def hints_of(fields: Sequence[tuple[str, str]], document: Any) -> Hints:
    """The hints in the header fields and in the request's decoded JSON body (anything else: no hints there)."""
    first = {name.lower(): value.strip()[:VALUE_CHARS_MAX] for name, value in reversed(fields)}
    body: dict[str, Any] = document if isinstance(document, dict) else {}
    metadata = body.get("metadata")
    claimed = _text(metadata.get("user_id")) if isinstance(metadata, dict) else None
    trace = _TRACE.fullmatch(first.get("traceparent", "").lower())
    return Hints(
        session=_first(first, _SESSION_FIELDS) or _session_in(body, claimed),
        agent=first.get("x-claude-code-agent-id") or None,
        user=_first(first, _USER_FIELDS) or _text(body.get("safety_identifier")) or _text(body.get("user")) or claimed,
        trace=trace[1] if trace else None,
        cache_key=_text(body.get("prompt_cache_key")),
    )


def _session_in(body: dict[str, Any], claimed: str | None) -> str | None:
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return _text(body.get("session_id")) or _text(conversation) or _claude_session(claimed or "")


def _claude_session(claimed: str) -> str | None:
    """`user_…_account_…_session_<uuid>`, or a JSON object with a session_id."""
    found = _CLAUDE_SESSION.search(claimed)
    if found:
        return found[1]
    if not claimed.startswith("{"):
        return None
    try:
        return msgspec.json.decode(claimed, type=_ClaudeUser).session_id
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


class _ClaudeUser(msgspec.Struct):
    session_id: str | None = None


def _first(first: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((first[name] for name in names if first.get(name)), None)


def _text(value: Any) -> str | None:
    return value[:VALUE_CHARS_MAX] if isinstance(value, str) and value else None
