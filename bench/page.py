"""The generated part of docs/PERFORMANCE.md: what stands between two markers is replaced, all else stays."""

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.arms.arm import Arm
from bench.questions import Question

PAGE = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"
BEGIN = "<!-- bench: written by `make bench`, not by hand -->"
END = "<!-- bench: end -->"


def text(questions: Sequence[Question], conditions: Sequence[str]) -> str:
    """The generated part."""
    parts = ["## Beside other proxies", "    make bench", "\n".join(f"- {line}" for line in conditions)]
    for question in questions:
        parts += [f"### {question.title}", question.about, "\n".join(question.lines)]
    return "\n\n".join(parts)


def put_into(page: str, generated: str) -> str:
    """The page with this between the markers. Raises ValueError if they are not there, once and in order."""
    begin, end = page.find(BEGIN), page.find(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or end < begin:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}, once and in this order")
    return f"{page[: begin + len(BEGIN)]}\n\n{generated}\n\n{page[end:]}"


def conditions(arms: Sequence[Arm], rounds: int, took_s: float) -> list[str]:
    """Machine, versions and date of a run that has just ended."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    release = ".".join(platform.release().split(".")[:2])
    programs = {arm.name.split()[0].rstrip(","): arm.version() for arm in arms if arm.version()}  # arms of one are one
    versions = [f"{name} {number}" for name, number in programs.items()]
    libraries = [f"{name} {version(name)}" for name in ("uvloop", "httptools", "pyzmq")]
    return [
        f"Machine: {os.cpu_count()} cores, {cpu[1] if cpu else platform.machine()}, {memory_gb:.0f} GB, Linux {release}",
        f"Versions: Python {platform.python_version()}, {', '.join([*versions, *libraries])}, wrk {_wrk()}",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {rounds} rounds in which the arms take turns, "
        f"{took_s / 60:.0f} minutes, load average at the end {os.getloadavg()[2]:.1f}",
    ]


def _wrk() -> str:
    told = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return told.split()[1].partition("/")[2] if told else "none"
