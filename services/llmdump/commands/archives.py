"""What the commands that look at archives share: what they are about, and how they become the api's module that asks."""

import json
from typing import Any, Final, NoReturn

from llmdump import interrupt, process

PLACES: Final = "[DATA|FILE]..."


def question(places: tuple[str, ...], flags: dict[str, Any], **asked: Any) -> dict[str, Any]:
    """What is asked, for `become`. `places`: data directories or segment files; none: the instance that the flags name."""
    where = {name: flags.pop(name) for name in ("config", "data_dir")}
    return {"places": [*places] or [process.load_or_exit(where).settings.data_dir], **flags, **asked}


def become(verb: str, asked: dict[str, Any]) -> NoReturn:
    """Become `llmdump_api.looking`, which answers."""
    interrupt.become("llmdump_api.looking.main", [verb, json.dumps(asked)])
