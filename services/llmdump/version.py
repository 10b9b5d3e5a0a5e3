"""Which version this is; pyproject.toml takes it from here. Asking the installed package would cost each start 40 ms."""

__version__ = "0.1.0"
