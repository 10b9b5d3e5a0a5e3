"""The requests that the demo sends, as well-known clients send them: paths, header fields, bodies. Pure.

The keys are made up, and look like it. The two-turn conversation carries the first answer in its second request, as
every agent does.
"""

from typing import Any, Final, NamedTuple

from llmdump.demo.reply import compact, reply_text

PREFIX: Final = "/demo"
"""The path prefix that the default routes lead to the simulated backend."""
MODEL: Final = "sim-large"

_OPENAI: Final = {
    "Authorization": "Bearer sk-demo-0000000000000000000000000000",
    "User-Agent": "OpenAI/Python 2.8.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.8.0",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Async": "false",
}
_ANTHROPIC: Final = {
    "X-Api-Key": "sk-ant-demo-000000000000000000000000",
    "Anthropic-Version": "2023-06-01",
    "Anthropic-Beta": "claude-code-20250219",
    "User-Agent": "claude-cli/2.0.0 (external, cli)",
    "X-App": "cli",
}
_GEMINI: Final = {
    "X-Goog-Api-Key": "AIza-demo-0000000000000000000000000000",
    "User-Agent": "google-genai-sdk/1.50.0 gl-python/3.12",
}
_OLLAMA: Final = {"User-Agent": "ollama-python/0.6.0 (x86_64 linux) Python/3.12"}
_SYSTEM: Final = "You are a terse assistant."


class Exchange(NamedTuple):
    """One request of the demo. `target` lies below `PREFIX`."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path as the proxy sees it, without its query."""
        return PREFIX + self.target.partition("?")[0]


def all_exchanges() -> list[Exchange]:
    """The requests in the order in which they are sent."""
    return [
        _chat("What is a base URL?", stream=True),
        _chat("And without streaming?", stream=False),
        _exchange("/v1/responses", _OPENAI, model=MODEL, input="Name three rivers.", instructions=_SYSTEM, stream=True),
        *_conversation("Read README.md and sum it up.", "Shorter, please."),
        _gemini("Translate 'ledger' into German."),
        _exchange("/api/chat", _OLLAMA, model="sim:latest", messages=[_user("Is the sky blue?")]),
    ]


def _exchange(target: str, headers: dict[str, str], **body: Any) -> Exchange:
    return Exchange(target, {"Content-Type": "application/json", "Accept": "application/json", **headers}, compact(body))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _chat(prompt: str, *, stream: bool) -> Exchange:
    messages = [{"role": "system", "content": _SYSTEM}, _user(prompt)]
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return _exchange("/v1/chat/completions", _OPENAI, model=MODEL, messages=messages, **streaming)


def _conversation(first: str, second: str) -> list[Exchange]:
    """Two turns; the second request repeats the first and its answer."""
    turn_1 = [_user(first)]
    turn_2 = [*turn_1, {"role": "assistant", "content": reply_text(first)}, _user(second)]
    return [
        _exchange(
            "/v1/messages?beta=true", _ANTHROPIC, model=MODEL, max_tokens=1024, system=_SYSTEM, messages=turn, stream=True
        )
        for turn in (turn_1, turn_2)
    ]


def _gemini(prompt: str) -> Exchange:
    contents = [{"role": "user", "parts": [{"text": prompt}]}]
    return _exchange(f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", _GEMINI, contents=contents)
