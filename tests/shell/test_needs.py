"""What a machine may lack: a reason to skip for a user, a failure in CI."""

import pytest
from needs import needs_tool


def outcome() -> tuple[type[BaseException], str]:
    """How a test ends that needs a tool nobody has."""
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as caught:
        needs_tool("no-such-tool")
    return caught.type, str(caught.value)


def test_missing_tool_skips_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    kind, reason = outcome()
    assert kind is pytest.skip.Exception
    assert "no-such-tool" in reason


def test_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    kind, reason = outcome()
    assert kind is pytest.fail.Exception
    assert "no-such-tool" in reason


def test_tool_that_is_there_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert needs_tool("sh").name == "sh"
