"""Where things live, and that nobody else can look in or stand in."""

import os
from pathlib import Path

import pytest

from llmdump.data_dir import SOCKET_PATH_BYTES_MAX, DataDir
from tests.needs import needs_root


def test_every_directory_is_private_to_its_owner(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data").create()
    for directory in (data.root, data.segments, data.run, data.sockets):
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("depth", [1, 30])
def test_a_socket_path_fits_its_address_however_long_the_data_directory_is(tmp_path: Path, depth: int) -> None:
    data = DataDir(tmp_path.joinpath(*["directory"] * depth))
    path = data.writer_endpoint(255).removeprefix("ipc://")
    assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


def test_a_socket_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_root()  # to give a directory away
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = DataDir(tmp_path.joinpath(*["directory"] * 30))
    data.sockets.mkdir()
    os.chown(data.sockets, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        data.create()
