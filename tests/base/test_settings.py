"""Settings: layers, what is refused and how it is said, lists."""

from pathlib import Path
from typing import Any

import pytest

from llmdump.settings import GROUPS, KEYS, SettingError, Settings, allowed, check, description, env_of, flag_of, load


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "llmdump.yaml"
    path.write_text(text)
    return path


def refusal(flags: dict[str, Any], environ: dict[str, str], config: Path | None = None) -> str:
    with pytest.raises(SettingError) as caught:
        load(flags, environ, config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("in_file", "in_environment", "in_flags", "value", "source"),
    [
        (None, None, None, 10000, None),
        (20, None, None, 20, "FILE"),
        (20, "30", None, 30, "environment LLMDUMP_MAX_CONNECTIONS"),
        (20, "30", "40", 40, "flag --max-connections"),
        (None, "30", "40", 40, "flag --max-connections"),
        (20, None, "40", 40, "flag --max-connections"),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, in_file: int | None, in_environment: str | None, in_flags: str | None, value: int, source: str | None
) -> None:
    path = written(tmp_path, "" if in_file is None else f"max_connections: {in_file}\n")
    environ = {} if in_environment is None else {"LLMDUMP_MAX_CONNECTIONS": in_environment, "HOME": "/"}
    loaded = load({} if in_flags is None else {"max_connections": in_flags}, environ, path)
    assert loaded.settings.max_connections == value
    assert loaded.origin.get("max_connections") == (str(path) if source == "FILE" else source)


def test_file_in_the_working_directory_counts_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}, {}, None).settings == Settings()
    written(tmp_path, "data_dir: here\n")
    other = tmp_path / "other.yaml"
    other.write_text("data_dir: there\n")
    assert load({}, {}, None).settings.data_dir == "here"
    assert load({}, {}, other).settings.data_dir == "there"


def test_every_key_can_be_set_in_every_layer(tmp_path: Path) -> None:
    for key, field in KEYS.items():
        is_list = isinstance(field.default, tuple)
        as_text = ";".join(field.default) if is_list else str(field.default)
        assert getattr(load({}, {env_of(key): as_text}, None).settings, key) == field.default, key
        assert getattr(load({key: field.default if is_list else as_text}, {}, None).settings, key) == field.default, key
        assert flag_of(key).startswith("--") and "_" not in flag_of(key)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LLMDUMP_DATA_DIRR": "x"}, ["data_dirr", "environment LLMDUMP_DATA_DIRR", "did you mean data_dir?"]),
        ({"LLMDUMP_PROXY_LISTENS": "x"}, ["did you mean proxy_listen?"]),
        ({"LLMDUMP_QQQQ": "x"}, ["unknown setting qqqq", "llmdump config --reference"]),
    ],
)
def test_unknown_key_stops_with_the_nearest_known_one(environ: dict[str, str], said: list[str]) -> None:
    message = refusal({}, environ)
    assert all(part in message for part in said), message


def test_unknown_key_without_a_near_one_gets_no_guess() -> None:
    assert "did you mean" not in refusal({}, {"LLMDUMP_QQQQ": "x"})


@pytest.mark.parametrize(
    ("key", "value", "is_allowed"),
    [
        ("capture_format", "xml", "cbor, jsonl"),
        ("proxy_listen", "localhost", "host:port"),
        ("proxy_listen", "localhost:70000", "host:port"),
        ("proxy_listen", "::1:7861", "host:port"),
        ("upstream", "ftp://x", "http(s)://host[:port][/prefix]"),
        ("upstream", "https://x/?key=1", "http(s)://host[:port][/prefix]"),
        ("max_head_bytes", "12", "≥ 1024"),
        ("max_head_bytes", "64KiB", "a whole number"),
        ("client_idle_timeout_s", "0", "> 0"),
        ("client_idle_timeout_s", "nan", "a number"),
        ("client_idle_timeout_s", "inf", "a number"),
        ("capture_flush_interval", "soon", "a number ≥ 0.01"),
        ("capture_seal", "perhaps", "true or false"),
        ("data_dir", "", "text"),
        ("routes", "/v1", "/prefix=http(s)://"),
        ("routes", "/v1=https://a; v2=https://b", "/prefix=http(s)://"),
        ("capture_rules", "/v1=some/none", "/path[*]=REQUEST/RESPONSE"),
        ("capture_redact_patterns", "(", "regular expressions"),
        ("writer_endpoints", "udp://x", "ipc://path or tcp://host:port"),
    ],
)
def test_bad_value_stops_with_key_value_source_and_what_is_allowed(key: str, value: str, is_allowed: str) -> None:
    message = refusal({}, {env_of(key): value})
    assert message.startswith(f"setting {key} = ")
    assert repr(value)[1:-1].split(";")[0].partition("key=")[0] in message
    assert f"(environment {env_of(key)})" in message
    assert is_allowed in message.partition("allowed is ")[2]
    assert f"(flag {flag_of(key)})" in refusal({key: value}, {})


def test_bad_value_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "on_overflow: panic\n")
    assert f"({path}): allowed is" in refusal({}, {}, path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [", "a: b: c", "\tx: 1", "\x00"])
def test_file_that_is_no_settings_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    assert str(path) in refusal({}, {}, path)


def test_named_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    assert "No such file" in refusal({}, {}, tmp_path / "missing.yaml")


def test_lists_come_from_yaml_from_a_text_with_semicolons_and_from_repeated_flags(tmp_path: Path) -> None:
    rules = ("/v1/*=all/heads", "/health=none/none")
    path = written(tmp_path, "capture_rules:\n- /v1/*=all/heads\n- /health=none/none\n")
    assert load({}, {}, path).settings.capture_rules == rules
    assert load({}, {"LLMDUMP_CAPTURE_RULES": " /v1/*=all/heads ;/health=none/none; "}, None).settings.capture_rules == rules
    assert load({"capture_rules": rules}, {}, None).settings.capture_rules == rules


def test_list_in_a_higher_layer_replaces_the_lower_one(tmp_path: Path) -> None:
    path = written(tmp_path, "capture_secret_headers: [x-one, x-two]\n")
    loaded = load({}, {"LLMDUMP_CAPTURE_SECRET_HEADERS": "x-three"}, path)
    assert loaded.settings.capture_secret_headers == ("x-three",)
    assert load({}, {"LLMDUMP_CAPTURE_SECRET_HEADERS": ""}, path).settings.capture_secret_headers == ()


def test_key_without_a_value_in_the_file_is_the_default(tmp_path: Path) -> None:
    assert load({}, {}, written(tmp_path, "upstream:\nroutes:\n")).settings == Settings()


def test_other_environment_variables_are_no_settings() -> None:
    assert load({}, {"PATH": "x", "LLMDUMP": "y", "LLMDUMP_CONFIG": "z", "XLLMDUMP_DATA_DIR": "w"}, None).origin == {}


def test_every_key_is_described_and_belongs_to_a_group() -> None:
    assert all(description(key).endswith((".", "`.")) and allowed(key) for key in KEYS)
    assert set(GROUPS) <= set(KEYS)
    assert next(iter(KEYS)) in GROUPS


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("upstream", "ftp://user:hunter2@host/x", "'ftp://***@host/x'"),
        ("upstream", "https://user:hun/ter2@ @host?key=hunter2", "'https://***@host?***'"),
        ("routes", "/a=ftp://user:hunter2@h; /b=http://host", "['/a=ftp://***@h', '/b=http://host']"),
        ("capture_redact_patterns", "sk-(", "['sk-(']"),
        ("capture_redact_literals", {"hunter2": 1}, "(a dict)"),
        ("upstream", {"url": "http://user:hunter2@host"}, "(a dict)"),
        ("max_connections", -3, "-3"),
    ],
)
def test_a_bad_value_is_shown_without_the_password_in_it(key: str, value: object, shown: str) -> None:
    with pytest.raises(SettingError) as raised:
        check(key, value, "test")
    assert str(raised.value).startswith(f"setting {key} = {shown} (test)")
    assert "hunter2" not in str(raised.value)
