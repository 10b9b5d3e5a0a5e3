"""The options that commands share."""

from collections.abc import Callable
from typing import Any

import click


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config` and `--data-dir`: which instance a command is about."""
    for option in (
        click.option("--data-dir", help="Data directory of the instance (default: as the settings say)."),
        click.option("--config", help="YAML file of settings (default ./llmdump.yaml, if there is one)."),
    ):
        command = option(command)
    return command
