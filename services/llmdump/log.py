"""Log lines on stderr: one event name and fields, `12:00:01 proxy-0 started listen=127.0.0.1:7861`.

INFO is for what an operator acts on; nothing is logged per request, and never a body or a key. Values that hold
control characters or blanks are quoted and escaped, so that captured text cannot forge a line or drive a terminal.
"""

import json
import logging
import sys
from typing import Any

_LOGGER = logging.getLogger("llmdump")


def configure(level: str) -> None:
    """Send log lines of this level and above to stderr. Called once at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    _LOGGER.handlers = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(level.upper())


def debug(event: str, **fields: Any) -> None:
    """Something a developer wants to see."""
    _LOGGER.debug(_line(event, fields))


def info(event: str, **fields: Any) -> None:
    """Something an operator acts on or waits for."""
    _LOGGER.info(_line(event, fields))


def warning(event: str, **fields: Any) -> None:
    """Something is wrong and was dealt with."""
    _LOGGER.warning(_line(event, fields))


def error(event: str, **fields: Any) -> None:
    """Something is wrong and needs somebody."""
    _LOGGER.error(_line(event, fields))


def _line(event: str, fields: dict[str, Any]) -> str:
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items())])


def _value(value: Any) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)
