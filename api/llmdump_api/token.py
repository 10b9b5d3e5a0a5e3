"""Bearer tokens: 64 hex digits each, made at the first start, the same for all apis that start at once.

    <data>/admin_token   may do everything
    <data>/read_token    may read: it pins nothing, and changes no setting

Comparing takes the same time whatever is wrong: with both tokens, always, and whole.
"""

import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

from llmdump.data_dir import DataDir

_SHAPE = re.compile(r"[0-9a-f]{64}")
AUTHORIZATION_CHARS_MAX: Final = 256

Scope = Literal["admin", "read"]


class TokenError(ValueError):
    """The token file cannot be used; the message says what to do."""


class Tokens(NamedTuple):
    """Both tokens."""

    admin: str
    read: str

    def scope(self, authorization: str) -> Scope | None:
        """What an Authorization value may do; None: nothing."""
        of_admin, of_reader = is_bearer(authorization, self.admin), is_bearer(authorization, self.read)
        return "admin" if of_admin else "read" if of_reader else None


def load_all(data: DataDir) -> Tokens:
    """Both tokens of a data directory. Blocking. Raises TokenError, OSError."""
    tokens = Tokens(load(data.admin_token), load(data.read_token))
    if tokens.admin == tokens.read:
        raise TokenError(f"{data.read_token} holds the admin token: delete it and start again, another one is made")
    return tokens


def load(path: Path) -> str:
    """The token in the file at `path`, made if there is none. Blocking. Raises TokenError, OSError."""
    if not path.exists():
        _make(path)
    token = path.read_text("ascii", errors="replace").strip()
    if not _SHAPE.fullmatch(token):
        raise TokenError(f"{path} does not hold a token (64 hex digits): delete it and start again, a new one is made")
    if path.stat().st_mode & 0o077:
        raise TokenError(f"{path} can be read by others: chmod 600 it, or delete it and start again, a new one is made")
    return token


def _make(path: Path) -> None:
    """Write a new token aside and link it into place: whoever is first wins, and nobody sees half a file."""
    fd, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass  # another api was first; its token is ours
    finally:
        Path(aside).unlink()


def is_bearer(authorization: str, token: str) -> bool:
    """Whether an Authorization value carries the token. Takes the same time whatever is wrong with it."""
    scheme, _, given = authorization[:AUTHORIZATION_CHARS_MAX].partition(" ")
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode()) and scheme.lower() == "bearer"
