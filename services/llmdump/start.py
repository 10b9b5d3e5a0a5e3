"""The console script `llmdump`. It imports nothing before it knows what Ctrl-C is to mean."""

import importlib

from llmdump import interrupt


def main() -> None:
    """Run `llmdump.cli`."""
    interrupt.at_once()
    importlib.import_module("llmdump.cli").main()
