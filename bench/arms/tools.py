"""Where the programs of other projects are: in an environment of their own, for their pins are not ours."""

from pathlib import Path

PROGRAMS = Path(__file__).parents[2] / ".venv-bench" / "bin"
