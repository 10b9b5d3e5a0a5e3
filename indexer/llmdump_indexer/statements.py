"""SQL from the files of this package: one statement a file, or several, each below a line `-- name: …`."""

import re
from importlib import resources
from typing import Final

_SQL: Final = resources.files("llmdump_indexer") / "sql"
_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def one(name: str) -> str:
    """The statement in a file that has only one."""
    return (_SQL / f"{name}.sql").read_text("utf-8")


def named(file: str) -> dict[str, str]:
    """The statements of a file by their names."""
    _, *parts = _NAME.split(one(file))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def migrations() -> list[tuple[str, str]]:
    """The steps of the schema, oldest first: the name of each, and its SQL."""
    names = sorted(file.name.removesuffix(".sql") for file in _SQL.iterdir() if file.name[:4].isdigit())
    return [(name, one(name)) for name in names]
