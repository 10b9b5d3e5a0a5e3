"""Settings: default < llmdump.yaml (or --config) < environment LLMDUMP_… < flag; one frozen object a process.

The `Settings` struct below is the only list of keys: flags, environment names, the reference page and the checks are
derived from it. A key that nobody knows, or a value that does not fit, stops the start with one line.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

ENV_PREFIX: Final = "LLMDUMP_"
CONFIG_FILE: Final = "llmdump.yaml"

_PORT: Final = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
_LEVEL: Final = "(all|heads|sizes|none)"
# From the first `//` to the last `@`, and behind a `?`: a value that is not a URL may still hold a password.
_CREDENTIALS: Final = re.compile(r"(?s)(?<=//).*(?=@)|(?<=\?).+")
_URLS: Final = frozenset({"upstream", "routes", "writer_endpoints"})
MASK: Final = "***"
# No time here makes sense beyond a year, and event loops refuse an infinite one.
_YEAR_S: Final = 31_536_000

Address = Annotated[str, Meta(pattern=rf"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:\s]+):{_PORT}$", title="host:port")]
OptionalUrl = Annotated[str, Meta(pattern=r"^$|^https?://[^\s/?#]+[^\s?#]*$", title="http(s)://host[:port][/prefix]")]
Route = Annotated[
    str, Meta(pattern=r"^(/[^=\s]*)?=https?://[^\s/?#]+[^\s?#]*$", title="/prefix=http(s)://host[:port][/prefix]")
]
Rule = Annotated[str, Meta(pattern=rf"^/\S*={_LEVEL}(/{_LEVEL})?$", title="/path[*]=REQUEST/RESPONSE")]
Endpoint = Annotated[str, Meta(pattern=r"^(ipc|tcp)://\S+$", title="ipc://path or tcp://host:port")]
Regex = Annotated[str, Meta(title="regular expressions")]
Network = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f:.]+(/\d{1,3})?$", title="addresses or networks, as in 10.0.0.0/8")]
Name = Annotated[str, Meta(pattern=r"^[^\s:;=&?#]+$", title="names")]
Seconds = Annotated[float, Meta(gt=0, le=_YEAR_S)]
Count = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Sizes are bytes, times seconds; a list in the environment is separated by `;`."""

    # --- where
    data_dir: Annotated[str, Meta(min_length=1, description="Directory of segments, index and token; made 0700.")] = "./data"
    proxy_listen: Annotated[Address, Meta(description="Where clients connect.")] = "127.0.0.1:7861"
    api_listen: Annotated[Address, Meta(description="Where the read API and all metrics are served.")] = "127.0.0.1:7862"
    api_hosts: Annotated[
        tuple[Name, ...],
        Meta(
            description="Names by which clients reach the api, beside loopback's and that of api_listen; others are turned "
            "away. Wanted where api_listen is wider than loopback; `*` for any name."
        ),
    ] = ()
    proxy_admin_listen: Annotated[
        Address, Meta(description="The proxy's own /metrics and /healthz; a second proxy takes a free port.")
    ] = "127.0.0.1:7871"
    writer_admin_listen: Annotated[Address, Meta(description="As proxy_admin_listen, for the writer.")] = "127.0.0.1:7872"
    indexer_admin_listen: Annotated[Address, Meta(description="As proxy_admin_listen, for the indexer.")] = "127.0.0.1:7873"
    price_file: Annotated[
        str,
        Meta(
            description="TOML file of prices, in place of the table that comes with llmdump. Applies to the past by `rebuild`."
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level of log lines on stderr.")
    ] = "info"

    # --- forwarding
    upstream: Annotated[
        OptionalUrl,
        Meta(description="Backend for everything, its path prefix kept. Empty: `routes` choose by path."),
    ] = ""
    routes: Annotated[
        tuple[Route, ...],
        Meta(
            description="Path prefix to backend, longest prefix first: `/v1=https://host` keeps the path, "
            "`/demo/*=http://host` takes the prefix off. Used while `upstream` is empty."
        ),
    ] = (
        "/v1/messages=https://api.anthropic.com",
        "/v1/complete=https://api.anthropic.com",
        "/v1=https://api.openai.com",
        "/v1beta=https://generativelanguage.googleapis.com",
        "/v1alpha=https://generativelanguage.googleapis.com",
        "/upload=https://generativelanguage.googleapis.com",
        "/ws=https://generativelanguage.googleapis.com",
        "/api=http://127.0.0.1:11434",
        "/openai/*=https://api.openai.com",
        "/anthropic/*=https://api.anthropic.com",
        "/gemini/*=https://generativelanguage.googleapis.com",
        "/ollama/*=http://127.0.0.1:11434",
        "/demo/*=http://127.0.0.1:7869",
    )
    upstream_ca_file: Annotated[
        str, Meta(description="PEM file of the CAs to trust for https backends. Empty: the system's.")
    ] = ""
    max_head_bytes: Annotated[
        int, Meta(ge=1024, le=16 * 1024 * 1024, description="Longest request or response head; beyond: 431 or 502.")
    ] = 65536
    max_connections: Annotated[int, Meta(ge=1, description="Client connections a proxy process holds; beyond: 503.")] = 10000
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Meta(
            description="Proxies before this one whose X-Forwarded-For, Cf-Connecting-Ip, True-Client-Ip and X-Real-IP are "
            "believed: a row's `client` is then the first public address they tell."
        ),
    ] = ()
    client_header_timeout_s: Annotated[Seconds, Meta(description="A client's time to send a whole head.")] = 30.0
    client_idle_timeout_s: Annotated[Seconds, Meta(description="How long an idle client connection is kept.")] = 300.0
    client_body_timeout_s: Annotated[
        Seconds, Meta(description="Longest silence within a request body, and of a client that does not read.")
    ] = 300.0
    upstream_connect_timeout_s: Annotated[Seconds, Meta(description="Name look-up, TCP and TLS together.")] = 10.0
    upstream_header_timeout_s: Annotated[Seconds, Meta(description="From the request's last byte to the response head.")] = (
        600.0
    )
    upstream_idle_timeout_s: Annotated[Seconds, Meta(description="Longest silence within a response.")] = 600.0
    upstream_keepalive_s: Annotated[
        Annotated[float, Meta(ge=0, le=_YEAR_S)],
        Meta(description="How long an idle backend connection is kept; 0 for not at all."),
    ] = 60.0
    upstream_max_idle: Annotated[Count, Meta(description="Idle connections kept for each backend.")] = 1024
    takeover: Annotated[
        bool,
        Meta(
            description="A new proxy takes the port over from the one of this data directory that has run there longest; that "
            "one retires. If none runs there, it starts as usual."
        ),
    ] = False
    retire_timeout_s: Annotated[
        Seconds,
        Meta(
            description="How long a proxy that retires (after a takeover or SIGQUIT) goes on for the clients it has; what is "
            "not over by then is cut."
        ),
    ] = 3600.0

    # --- what is captured
    capture_rules: Annotated[
        tuple[Rule, ...],
        Meta(
            description="`PATH=REQUEST/RESPONSE`, PATH exact or with a trailing `*`, each side one of `all`, `heads`, "
            "`sizes` (sizes and times only), `none`. The first that fits counts; none fits: all/all."
        ),
    ] = ()
    capture_truncate_bytes: Annotated[
        Size, Meta(description="Keep this many bytes of each captured payload, marked as cut; 0 keeps all.")
    ] = 0
    capture_secrets: Annotated[
        Literal["mask", "keep"], Meta(description="Credentials in heads: masked before they leave the proxy, or kept.")
    ] = "mask"
    capture_secret_headers: Annotated[
        tuple[Name, ...], Meta(description="Names of further header fields to mask, beside the known ones.")
    ] = ()
    capture_secret_query: Annotated[
        tuple[Name, ...], Meta(description="Names of further query parameters to mask, beside `key`.")
    ] = ()
    capture_redact_bodies: Annotated[
        bool, Meta(description="Mask the exchange's own credentials, the literals and the patterns in bodies too.")
    ] = False
    capture_redact_literals: Annotated[
        tuple[str, ...], Meta(description="Texts masked in bodies with capture_redact_bodies.")
    ] = ()
    capture_redact_patterns: Annotated[
        tuple[Regex, ...],
        Meta(description="Regular expressions masked in bodies with capture_redact_bodies; a match is ≤ 256 bytes."),
    ] = (r"sk-[A-Za-z0-9_-]{16,}", r"AIza[A-Za-z0-9_-]{35}")

    # --- from proxy to writer
    capture_memory_bytes: Annotated[
        int, Meta(ge=1024 * 1024, description="Records a proxy holds in memory until they are durable.")
    ] = 24 * 1024 * 1024
    capture_spill_bytes: Annotated[
        int,
        Meta(
            ge=1024 * 1024,
            description="Records a proxy keeps in spill files, those of dead proxies that it sends on included. As much of it "
            "as capture_memory_bytes (at most half) is kept free for what memory holds when the proxy stops.",
        ),
    ] = 1024 * 1024 * 1024
    on_overflow: Annotated[
        Literal["spill", "drop", "block"],
        Meta(
            description="When memory fills: put records into a spill file and, when that is full too, drop them (counted, "
            "with a gap record); drop them at once; or make clients wait. Of what no writer has when the proxy stops, "
            "`spill` and `block` make a spill file, which the next proxy sends."
        ),
    ] = "spill"
    writer_endpoints: Annotated[
        tuple[Endpoint, ...],
        Meta(description="ZeroMQ endpoints of the writers. Empty: those found in the data directory."),
    ] = ()

    curve_writer_secret_key_file: Annotated[
        str, Meta(description="At a writer: its secret CURVE key, as `llmdump keys new` writes it. Empty: no tcp:// to others.")
    ] = ""
    curve_proxy_public_keys_file: Annotated[
        str, Meta(description="At a writer: the public keys of the proxies that may connect, a line each.")
    ] = ""
    curve_proxy_secret_key_file: Annotated[str, Meta(description="At a proxy: its secret CURVE key.")] = ""
    curve_writer_public_key_file: Annotated[
        str, Meta(description="At a proxy: the public key of the writers it sends to over tcp://.")
    ] = ""

    # --- segment files
    capture_format: Annotated[
        Literal["cbor", "jsonl", "both"], Meta(description="cbor is exact and fast; jsonl is for eyes and jq.")
    ] = "cbor"
    capture_flush_interval: Annotated[
        Annotated[float, Meta(ge=0.01, le=3600)], Meta(description="Longest time a record waits in the writer, seconds.")
    ] = 0.1
    capture_max_entries_per_flush: Annotated[int, Meta(ge=1, description="Flush when this many records wait.")] = 1000
    capture_buffer_size: Annotated[int, Meta(ge=1, description="Flush when this many bytes wait.")] = 1024 * 1024
    fsync: Annotated[
        Literal["flush", "interval", "off"],
        Meta(
            description="flush: synced before it is acknowledged. interval: acknowledged when written, synced within "
            "capture_fsync_interval_s; a power cut may lose that much. off: synced when the system likes."
        ),
    ] = "flush"
    capture_fsync_interval_s: Annotated[
        Annotated[float, Meta(ge=0.01, le=3600)], Meta(description="With fsync interval: longest time until a sync, seconds.")
    ] = 1.0
    capture_max_bytes: Annotated[
        int, Meta(ge=4096, description="A segment file is closed before it would grow beyond this.")
    ] = 100 * 1024 * 1024
    capture_rotate_interval_seconds: Annotated[
        Count, Meta(description="A segment file is closed at this age; 0 for never.")
    ] = 86400
    capture_max_files: Annotated[
        Count, Meta(description="Closed segment files kept for each writer, the oldest go first; 0 for no limit.")
    ] = 0
    capture_total_max_bytes: Annotated[
        Size, Meta(description="All segment files of a writer together, the oldest go first; 0 for no limit.")
    ] = 10 * 1024 * 1024 * 1024
    capture_max_age_s: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(description="Closed segment files are deleted when their last record is so old; 0 for never."),
    ] = 0.0
    capture_min_free_bytes: Annotated[
        Size, Meta(description="Nothing is written that would leave less room than this on the disk; 0 to fill it up.")
    ] = 1024 * 1024 * 1024
    capture_seal: Annotated[bool, Meta(description="Compress closed segment files (zstd, long window).")] = True

    # --- kept longer, or shorter, than segment files
    pinned_max_bytes: Annotated[
        Size,
        Meta(
            description="Copies of pinned exchanges, all together; beyond, nothing can be pinned. They do not count for "
            "capture_total_max_bytes, and no cap deletes them. 0 for no limit."
        ),
    ] = 1024 * 1024 * 1024
    index_max_age_s: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="Rows of exchanges that began so long ago are deleted from the index, but for pinned and open ones; "
            "segment files have limits of their own. 0 for never."
        ),
    ] = 0.0


class SettingError(ValueError):
    """A setting cannot be used; the message is one line for the user, with the key, the value and what is allowed."""


class Loaded(NamedTuple):
    """Settings in force, and where each value that is not a default came from."""

    settings: Settings
    origin: dict[str, str]


KEYS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}

GROUPS: Final = {
    "data_dir": "Where",
    "upstream": "Forwarding",
    "capture_rules": "What is captured",
    "capture_memory_bytes": "From proxy to writer",
    "capture_format": "Segment files",
    "pinned_max_bytes": "Kept longer, or shorter, than segment files",
}
"""The first key of each group of settings, and the group's heading on the reference page."""


def load(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Loaded:
    """All layers merged and checked. `flags` has only keys that were given. `config` None means ./llmdump.yaml, if any.

    Blocking (reads one small file). Raises SettingError.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, layer in (
        *_file_layer(config),
        *_env_layer(environ),
        *((f"flag {flag_of(k)}", {k: flags[k]}) for k in flags),
    ):
        for key, value in layer.items():
            values[key] = check(key, value, source)
            origin[key] = source
    return Loaded(Settings(**values), origin)


def check(key: str, value: Any, source: str) -> Any:
    """The value as its key's type. Raises SettingError naming key, value, source and what is allowed."""
    if key not in KEYS:
        raise SettingError(f"unknown setting {key} ({source}){_nearest(key)}; `llmdump config --reference` lists all")
    if value is None or value == ():
        value = KEYS[key].default
    if isinstance(value, str) and isinstance(KEYS[key].default, tuple):
        value = [part.strip() for part in value.split(";") if part.strip()]
    try:
        converted = msgspec.convert(value, KEYS[key].type, strict=False)
        if key == "capture_redact_patterns":
            for pattern in converted:
                re.compile(pattern)
    except (msgspec.ValidationError, re.error) as err:
        raise SettingError(f"setting {key} = {_shown(key, value)} ({source}): allowed is {allowed(key)}") from err
    return converted


def _shown(key: str, value: Any) -> str:
    """The value as far as a log may show it: no user and query of a URL, and nothing of the texts that are to be masked."""
    if key == "capture_redact_literals":
        return f"(a {type(value).__name__})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(key, one) for one in value) + "]"
    if isinstance(value, str):
        return repr(_CREDENTIALS.sub("***", value))
    return repr(value) if isinstance(value, bool | int | float) else f"(a {type(value).__name__})"


def masked(key: str, value: Any) -> Any:
    """The value as it may be shown: without texts that are secret by themselves, and credentials in URLs."""
    if isinstance(value, list | tuple):
        return [masked(key, one) for one in value]
    if key == "capture_redact_literals":
        return MASK
    return _CREDENTIALS.sub(MASK, value) if key in _URLS else value


def env_of(key: str) -> str:
    """The environment variable of a key."""
    return ENV_PREFIX + key.upper()


def flag_of(key: str) -> str:
    """The command-line flag of a key."""
    return "--" + key.replace("_", "-")


def description(key: str) -> str:
    """What a key is for, one sentence or two."""
    return str(msgspec.json.schema(KEYS[key].type).get("description", ""))


def allowed(key: str) -> str:
    """What values a key takes, in words."""
    return _allowed(KEYS[key].type)


def _allowed(annotated: Any) -> str:
    schema = msgspec.json.schema(annotated)
    if schema.get("type") == "array":
        return f"a list of {schema['items'].get('title', 'texts')}"
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if schema.get("title"):
        return str(schema["title"])
    words = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
    limits = [
        f"{sign} {schema[name]}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if name in schema
    ]
    return " ".join([words[schema["type"]], " and ".join(limits)]).strip()


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ""


def _file_layer(config: Path | None) -> list[tuple[str, dict[str, Any]]]:
    path = config or Path(CONFIG_FILE)
    if config is None and not path.exists():
        return []
    import yaml  # noqa: PLC0415 - a tenth of the time in which a process starts, and most have no such file

    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as err:
        raise SettingError(f"cannot read the configuration file {path}: {' '.join(str(err).split())}") from err
    if content is None:
        return []
    if not isinstance(content, dict):
        raise SettingError(f"configuration file {path}: allowed is `key: value` lines, this is a {type(content).__name__}")
    return [(str(path), {str(key): value for key, value in content.items()})]


def _env_layer(environ: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    names = sorted(name for name in environ if name.startswith(ENV_PREFIX) and name != f"{ENV_PREFIX}CONFIG")
    return [(f"environment {name}", {name.removeprefix(ENV_PREFIX).lower(): environ[name]}) for name in names]


def from_process(flags: Mapping[str, Any], config: str | None) -> Loaded:
    """`load` for this process: its environment, and the file that --config or LLMDUMP_CONFIG names."""
    named = config or os.environ.get(f"{ENV_PREFIX}CONFIG")
    return load(flags, os.environ, Path(named) if named else None)
