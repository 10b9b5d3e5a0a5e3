"""What may be wrong with an instance, and the command that mends it: the checks of `llmdump doctor`.

Each check looks at one thing and gives findings. Nothing is changed, no backend is asked unless that is wanted, and
nothing is waited for longer than a process's /healthz.
"""

import contextlib
import os
import resource
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

import apsw

from llmdump import address, health, indexed, segment
from llmdump.data_dir import DataDir
from llmdump.health import Health
from llmdump.settings import Settings, env_of, flag_of

Level = Literal["ok", "note", "problem"]
CONNECT_WITHIN_S: Final = 5.0
CLOCK_S_MAX: Final = 60.0
_OWN_FILES: Final = 256
"""Descriptors that a process needs beside its connections."""
_CLIENT_VARIABLES: Final = {
    "OPENAI_BASE_URL": "/v1",
    "ANTHROPIC_BASE_URL": "",
    "GOOGLE_GEMINI_BASE_URL": "/gemini",
    "OLLAMA_HOST": "",
}
"""What clients read, and the path behind the proxy's address."""
_PROXY_VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


class Finding(NamedTuple):
    """What was found."""

    level: Level
    what: str
    mend: str = ""
    """The command that mends it, or what to do."""


class Place(NamedTuple):
    """What the checks look at."""

    settings: Settings
    data: DataDir
    found: list[Health]
    environ: Mapping[str, str]

    def lives(self, role: str) -> bool:
        """Whether a process of this role lives."""
        return any(one.card.role == role for one in self.found)


Check = Callable[[Place], Iterator[Finding]]


def _directory(place: Place) -> Iterator[Finding]:
    root = place.data.root
    if not root.exists():
        yield Finding("note", f"there is no data directory {root} yet", "llmdump up")
        return
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("problem", f"{root} cannot be read and written by this user", f"chown -R $(id -u) {root}")
        return
    if not place.lives("writer") and (free := shutil.disk_usage(root).free) < place.settings.capture_min_free_bytes:
        yield Finding(
            "problem", f"{free:,} bytes are free on the disk of {root}, below capture_min_free_bytes: nothing would be written",
            f"free some room, or {env_of('capture_min_free_bytes')}={free // 2}",
        )  # fmt: skip
    open_to = [
        path for path in (root, place.data.segments, place.data.run, place.data.spill, place.data.pinned) if _is_open(path)
    ]
    if open_to:
        names = " ".join(map(str, open_to))
        yield Finding("problem", f"others can read {names}: it holds what clients said to the models", f"chmod 700 {names}")
    else:
        yield Finding("ok", f"{root} is there, private and writable")


def _is_open(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    return False


def _processes(place: Place) -> Iterator[Finding]:
    missing = health.missing(place.found)
    if len(missing) == len(health.ROLES):
        yield Finding("note", f"nothing runs in {place.data.root}", "llmdump up")
        return
    waits = {
        "proxy": "clients find nobody", "writer": "records wait in the proxies", "indexer": "what is written is not indexed",
        "api": "nothing can be read",
    }  # fmt: skip
    yield from (Finding("problem", f"no {role} runs: {waits[role]}", f"llmdump-{role}") for role in missing)
    for one in place.found:
        if one.problem:
            yield Finding("problem", f"{one.card.name}: {one.problem}", _mend(one))
        else:
            yield Finding("ok", f"{one.card.name} works")


def _mend(one: Health) -> str:
    said = one.problem.lower()
    if "free" in said or "space" in said or "room" in said or "disk" in said:
        return "free some room on the disk, or set capture_min_free_bytes lower and restart the writer"
    return f"look at its log; then kill {one.card.pid}, and start llmdump-{one.card.role}"


def _ports(place: Place) -> Iterator[Finding]:
    for role in ("proxy", "api"):
        listen = getattr(place.settings, f"{role}_listen")
        if place.lives(role) or address.split(listen)[1] == 0:
            continue
        try:
            address.listen(listen).close()
        except OSError as err:
            host, port = address.split(listen)
            other = address.join(host, port + 100 if port < 65000 else port - 100)
            yield Finding("problem", str(err), f"llmdump up {flag_of(f'{role}_listen')} {other}  (ss -ltnp tells who has it)")
        else:
            yield Finding("ok", f"{listen} is free for the {role}")


def _token(place: Place) -> Iterator[Finding]:
    token = place.data.admin_token
    try:
        mode, content = token.stat().st_mode, token.read_text().strip()
    except FileNotFoundError:
        level: Level = "problem" if place.lives("api") else "note"
        if place.data.root.exists():
            yield Finding(
                level, f"there is no {token}", "restart llmdump-api, which makes it" if place.lives("api") else "llmdump up"
            )
        return
    except (OSError, ValueError) as err:
        yield Finding("problem", f"cannot read {token}: {err}", f"chown $(id -u) {token}")
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(
            "problem", f"others can read {token}", f"chmod 600 {token}; it may be known: delete it and restart llmdump-api"
        )
    elif not content:
        yield Finding("problem", f"{token} is empty", f"rm {token}, and restart llmdump-api")
    else:
        yield Finding("ok", "the token is there, and private")


def _index(place: Place) -> Iterator[Finding]:
    path = place.data.index
    if not path.exists():
        if place.data.segments.is_dir() and segment.find(place.data.segments):
            yield Finding(
                "problem" if place.lives("indexer") else "note", f"there is no {path}", "llmdump-indexer, or llmdump rebuild"
            )
        return
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            version = db.pragma("user_version")
    except apsw.Error as err:
        yield Finding("problem", f"{path} cannot be read: {err}", "llmdump rebuild")
        return
    if version > indexed.SCHEMA:
        yield Finding(
            "problem", f"{path} has schema {version}, of a newer llmdump", "use the newer llmdump, or llmdump rebuild"
        )
    elif version < indexed.SCHEMA:
        yield Finding(
            "problem",
            f"{path} has schema {version}, this llmdump reads {indexed.SCHEMA}",
            "llmdump-indexer, which brings it up",
        )
    else:
        yield Finding("ok", "the index has the schema of this version")


def _clock(place: Place) -> Iterator[Finding]:
    if not place.data.segments.is_dir():
        return
    newest = max((path.stat().st_mtime for path in place.data.segments.iterdir()), default=0.0)
    if (ahead_s := newest - time.time()) > CLOCK_S_MAX:
        yield Finding(
            "problem",
            f"the newest segment is {ahead_s:,.0f} s in the future: the clock was set back",
            "timedatectl set-ntp true",
        )


def _files(place: Place) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * place.settings.max_connections + _OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield Finding("ok", f"{soft} files may be open")
        return
    can = hard == resource.RLIM_INFINITY or hard >= wanted
    mend = f"ulimit -n {wanted}" if can else f"{env_of('max_connections')}={max(1, (hard - _OWN_FILES) // 2)}"
    yield Finding("note", f"{soft} files may be open, and max_connections needs up to {wanted}", mend)


def _spill(place: Place) -> Iterator[Finding]:
    living = {one.card.instance for one in place.found if one.card.role == "proxy"}
    if orphans := place.data.spilled() - living:
        size = sum(path.stat().st_size for path in place.data.spill.glob("*.spill"))
        told = f"records of {len(orphans)} dead proxies wait in {place.data.spill} ({size:,} bytes)"
        if not living:
            yield Finding("problem", f"{told}, and no proxy runs to send them", "llmdump-proxy")
        elif not place.lives("writer"):
            yield Finding("problem", f"{told}, and no writer runs to take them", "llmdump-writer")
        else:
            yield Finding("note", f"{told}; a proxy is sending them")


def _clients(place: Place) -> Iterator[Finding]:
    card = next((one.card for one in place.found if one.card.role == "proxy" and one.card.listen), None)
    proxy = address.url(card.listen if card else place.settings.proxy_listen)
    given = {name: place.environ[name] for name in _CLIENT_VARIABLES if place.environ.get(name)}
    if not given:
        yield Finding(
            "note", "no variable of this shell points a client at the proxy", "llmdump run -- PROGRAM, or llmdump banner"
        )
    for name, value in given.items():
        if not _is_at(value, proxy):
            yield Finding(
                "note",
                f"{name}={value} is not the proxy: nothing of that is recorded",
                f"export {name}={_wanted(place, name, proxy)}",
            )
        elif wrong := _wrong_path(name, value):
            yield Finding("problem", f"{name}={value}: {wrong}", f"export {name}={_wanted(place, name, proxy)}")
        else:
            yield Finding("ok", f"{name} points at the proxy")
    yield from _between(place)


def _is_at(value: str, proxy: str) -> bool:
    at, wanted = urlsplit(value if "://" in value else f"http://{value}"), urlsplit(proxy)
    loopback = address.is_loopback(at.hostname or "") and address.is_loopback(wanted.hostname or "")
    with contextlib.suppress(ValueError):
        return at.port == wanted.port and (at.hostname == wanted.hostname or loopback)
    return False


def _wanted(place: Place, name: str, proxy: str) -> str:
    path = _CLIENT_VARIABLES[name]
    return proxy + ("" if place.settings.upstream and path == "/gemini" else path)


def _wrong_path(name: str, value: str) -> str:
    path = urlsplit(value).path.rstrip("/")
    if name == "OPENAI_BASE_URL" and not path.endswith("/v1"):
        return "OpenAI's clients want /v1 at the end"
    if name == "ANTHROPIC_BASE_URL" and path.endswith("/v1"):
        return "Anthropic's clients put /v1 there themselves"
    return ""


def _between(place: Place) -> Iterator[Finding]:
    """A forward proxy would be asked for addresses of this machine."""
    name = next((name for name in _PROXY_VARIABLES if place.environ.get(name)), "")
    exempt = (place.environ.get("no_proxy") or place.environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    if name and not {"127.0.0.1", "*"} & set(exempt):
        yield Finding(
            "problem",
            f"{name} is set: clients ask it for 127.0.0.1 too",
            "export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost",
        )


CHECKS: Final[tuple[Check, ...]] = (_directory, _processes, _ports, _token, _index, _clock, _files, _spill, _clients)


def look(settings: Settings, environ: Mapping[str, str], *, backends: bool = False) -> list[Finding]:
    """All findings. Blocking, some seconds at most."""
    data = DataDir(Path(settings.data_dir))
    place = Place(settings, data, health.look(data), environ)
    found = []
    for check in CHECKS:
        try:
            found += list(check(place))
        except OSError as err:
            found.append(Finding("problem", f"{err.filename or data.root}: {err.strerror or err}", f"ls -la {data.root}"))
    return found + (list(_backends(place)) if backends else [])


def _backends(place: Place) -> Iterator[Finding]:
    """Whether each backend takes a connection; nothing is sent."""
    urls = (
        [place.settings.upstream] if place.settings.upstream else [route.partition("=")[2] for route in place.settings.routes]
    )
    places = sorted(
        {(urlsplit(url).hostname or "", urlsplit(url).port or (443 if url.startswith("https") else 80)) for url in urls}
    )
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(_reach, places)


def _reach(where: tuple[str, int]) -> Finding:
    begin = time.monotonic()
    try:
        with socket.create_connection(where, timeout=CONNECT_WITHIN_S):
            return Finding(
                "ok", f"backend {address.join(*where)} takes connections, {1000 * (time.monotonic() - begin):.0f} ms"
            )
    except OSError as err:
        level: Level = "note" if address.is_loopback(where[0]) else "problem"
        return Finding(
            level, f"backend {address.join(*where)}: {err.strerror or err}", "start it, or change `routes` or `upstream`"
        )
