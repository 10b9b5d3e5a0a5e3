"""The project's name in the instructions of coding agents."""

from typing import Any

import pytest

from llmdump.reading.project import project_of

FILE = "Contents of /x/CLAUDE.md (project):\n\n# example-project"


@pytest.mark.parametrize(
    ("system", "name"),
    [
        (FILE, "example-project"),
        ("You are an agent.\n\nContents of /x/AGENTS.md:\n\n## `my-project` &lt;v2&gt; &amp; more\n", "my-project <v2> & more"),
        ("As ./docs/AGENTS.md says:\ntext\n# Deep\n", "Deep"),
        ("/x/CLAUDE.md is empty.\n" + "x" * 500 + "\n# far away", None),
        ("/x/CLAUDE.md" + " " * 380 + "\n# a name across the window's end", "a name across the window's end"),
        ("# System\nFollow CLAUDE.md where there is one.", "System"),
        ("# `my-project`", "my-project"),
        ("  </context>\n# tagged #", "tagged"),
        ("</a></b>\n# twice tagged", None),
        ("CLAUDE.md is a file.\nNo heading here: #1", None),
        ("", None),
    ],
)
def test_names(system: str, name: str | None) -> None:
    documents: list[dict[str, Any]] = [
        {"system": system},
        {"system": [{"type": "text", "text": system, "cache_control": {}}]},
        {"messages": [{"role": "system", "content": system}]},
        {"instructions": system},
        {"input": [{"role": "developer", "content": [{"type": "input_text", "text": system}]}]},
        {"systemInstruction": {"parts": [{"text": system}]}},
    ]
    assert [project_of(document) for document in documents] == [name] * len(documents)


def test_claude_code_gives_the_file_in_the_first_message() -> None:
    said = [{"type": "text", "text": "<system-reminder>\n" + FILE + "\n</system-reminder>"}]
    assert project_of({"system": "You are Claude Code.", "messages": [{"role": "user", "content": said}]}) == "example-project"
    assert project_of({"messages": [{"role": "user", "content": "# not a project"}]}) is None
    later = [{"role": "user", "content": "hi"}, {"role": "user", "content": FILE}]
    assert project_of({"messages": later}) is None


@pytest.mark.parametrize(
    "document", [None, [], {"messages": 7}, {"messages": [None, {"role": "system"}], "system": {"parts": 3}}]
)
def test_odd_documents_have_none(document: Any) -> None:
    assert project_of(document) is None
