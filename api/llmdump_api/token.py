"""The bearer token: 64 hex digits in `<data>/admin_token`, made at the first start, the same for all that start at once."""

import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path

_SHAPE = re.compile(r"[0-9a-f]{64}")


class TokenError(ValueError):
    """The token file cannot be used; the message says what to do."""


def load(path: Path) -> str:
    """The token in the file at `path`, made if there is none. Blocking. Raises TokenError, OSError."""
    if not path.exists():
        _make(path)
    token = path.read_text("ascii", errors="replace").strip()
    if not _SHAPE.fullmatch(token):
        raise TokenError(f"{path} does not hold a token (64 hex digits): delete it and start again, a new one is made")
    return token


def _make(path: Path) -> None:
    """Write a new token aside and link it into place: whoever is first wins, and nobody sees half a file."""
    fd, aside = tempfile.mkstemp(prefix=".admin_token-", dir=path.parent)
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
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode()) and scheme.lower() == "bearer"
