"""A disk that fails, below the product: the system's own calls, on real files in memory (tmpfs), with a record of what
would be left of them after a power cut.

Why not a `Disk` passed to every class: files are touched in a dozen modules, through `os` and through `pathlib`, and the
readers (survey, recovery, the certificate) are to be the product's own. The calls that can fail or be lost are few
(open, write, pwrite, pwritev, fsync, fdatasync, ftruncate, unlink, rename, pread), so these are replaced in
the module `os` as long as a simulation runs, for files below its directory only. The kernel itself is the page cache: what
the product reads is what it would read, links and locks are real. The product needs no seam at all for this.

Of each file is kept, beside it:

    durable   what a power cut leaves for certain
    pending   writes and cuts since the last sync, in order

    fsync       pending becomes durable. If it fails, as on Linux: EIO once; of what was pending some is on disk and
                some never will be, the page cache shows all of it, and the next fsync says that all is well
    power cut   durable, and of pending the first few, the last of them perhaps torn at any byte; or any pages of it, in no
                order, between zeros. Names in a directory
                likewise: made, removed and renamed in order, up to some point after the last sync of the directory
    kill        takes nothing; descriptors are closed, locks with them
    full        a write takes what there is room for, then ENOSPC
    short       a write takes only a part
    EIO …       any call, with a probability of its own
    slow        calls take their time; meanwhile the world goes on
"""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.simulation.world import Process, World

_real = {
    name: getattr(os, name)
    for name in ("open", "close", "write", "pwrite", "pwritev", "fsync", "ftruncate", "unlink", "rename", "pread", "pipe2")
    if hasattr(os, name)
}
QUICK_S = 0.00005
SYNC_S = 0.002
PAGE_BYTES = 4096


class File:
    """One file, whatever its name."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes | None]] = []
        """(offset, bytes) was written; (size, None): cut to this size."""

    def settle(self, count: int) -> None:
        """The first `count` of what is pending are durable."""
        for at, content in self.pending[:count]:
            _apply(self.durable, at, content)
        del self.pending[:count]

    def settle_pages(self, rng: random.Random) -> None:
        """Of what is pending, any pages are durable, and the size; the others are as they were, or zeros."""
        before, count = bytes(self.durable), len(self.pending)
        self.settle(count)
        for at in range(0, len(self.durable), PAGE_BYTES):
            if rng.random() < 0.5:
                size = len(self.durable[at : at + PAGE_BYTES])
                self.durable[at : at + size] = before[at : at + size].ljust(size, b"\0")


def _apply(image: bytearray, at: int, content: bytes | None) -> None:
    if content is None:
        del image[at:]
    else:
        image.extend(bytes(max(0, at - len(image))))
        image[at : at + len(content)] = content


class NameChange(NamedTuple):
    """In a directory: this name is now this file's, or nobody's."""

    name: str
    file: File | None


class Open(NamedTuple):
    """What is known of a descriptor."""

    volume: "Volume"
    file: File | None
    """None: the directory itself."""
    appends: bool
    owner: Process | None


class Volume:
    """One directory on a disk of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[int, File] = {}
        """By inode."""
        self.durable_names: dict[str, File] = {}
        self.name_changes: list[tuple[NameChange, ...]] = []
        self.fails: dict[str, float] = {}
        """The probability that a call fails."""
        self.room: float | None = None
        """Bytes that may still be written; None for any."""
        self.slow_s = 0.0
        self.short = 0.0
        self.lost_reads = 0

    def heal(self) -> None:
        """The disk is well again; what is on it stays as it is."""
        self.fails.clear()
        self.room = None
        self.slow_s = self.short = 0.0

    def name(self, name: str, file: File | None) -> None:
        self.name_changes.append((NameChange(name, file),))

    def settle_names(self, count: int) -> None:
        for name, file in [change for together in self.name_changes[:count] for change in together]:
            if file is None:
                self.durable_names.pop(name, None)
            else:
                self.durable_names[name] = file
        del self.name_changes[:count]

    def image(self) -> dict[str, bytes]:
        """What a power cut would leave at the least."""
        return {name: bytes(file.durable) for name, file in self.durable_names.items()}


class Disk:
    """All volumes of a world, and the system calls on them."""

    def __init__(self, world: World, root: Path, *directories: Path) -> None:
        self.world = world
        self.volumes = [Volume(directory) for directory in directories]
        self._by_directory = {str(volume.directory): volume for volume in self.volumes}
        self._root = str(root)
        self._open: dict[int, Open] = {}

    @contextmanager
    def calls(self) -> Iterator[None]:
        """The system calls of this disk, for all code."""
        replaced = {
            "open": self.open, "close": self.close, "write": self.write, "pwrite": self.pwrite, "pwritev": self.pwritev,
            "fsync": self.fsync, "fdatasync": self.fsync, "ftruncate": self.ftruncate, "unlink": self.unlink,
            "remove": self.unlink, "rename": self.rename, "replace": self.rename, "pread": self.pread, "pipe2": self.pipe2,
        }  # fmt: skip
        with ExitStack() as stack:
            for name, call in replaced.items():
                if hasattr(os, name):
                    stack.enter_context(mock.patch.object(os, name, call))
            yield

    def power_cut(self, volume: Volume) -> None:
        """Nobody may be using it any more. What is left of it is what there is from now on."""
        rng = self.world.random
        volume.settle_names(rng.randint(0, len(volume.name_changes)))
        for file in volume.durable_names.values():
            if rng.random() < 0.3 and all(content is not None for _, content in file.pending):
                file.settle_pages(rng)
                continue
            file.settle(rng.randint(0, len(file.pending)))
            if file.pending and rng.random() < 0.7:
                at, content = file.pending[0]
                _apply(file.durable, at, content and content[: rng.randint(0, len(content))])
        image = volume.image()
        for path in [*volume.directory.iterdir()]:
            _real["unlink"](path)
        volume.files.clear()
        volume.name_changes.clear()
        volume.durable_names.clear()
        for name, content in image.items():
            path = volume.directory / name
            path.write_bytes(content)
            path.chmod(0o600)
            file = volume.files[path.stat().st_ino] = File(content)
            volume.durable_names[name] = file

    # --- system calls

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        volume, name = self._find(path)
        if volume is None:
            return int(_real["open"](path, flags, mode, dir_fd=dir_fd))
        new = bool(name) and not os.path.lexists(path)
        self._enter(volume, "open", QUICK_S)
        if new and flags & os.O_CREAT and volume.room == 0:
            raise OSError(errno.ENOSPC, "no room for a name")
        fd = int(_real["open"](path, flags, mode))
        owner = self.world.current.process if self.world.current else None
        file = self._of(volume, fd) if name else None
        if file and new:
            volume.name(name, file)
        if file and flags & os.O_TRUNC:
            file.pending.append((0, None))
        self._open[fd] = Open(volume, file, bool(flags & os.O_APPEND), owner)
        if owner:
            owner.fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        current, found = self.world.current, self._open.get(fd)
        process = current.process if current else None
        if (process and not process.alive) or (found and found.owner is not process):
            # What a dead process had open is closed, and the number may be another's. No Killed: it may be a generator that
            # ends, where nobody hears it; the next call of the process raises it.
            return
        self._open.pop(fd, None)
        if process:
            process.fds.discard(fd)
        _real["close"](fd)

    def pipe2(self, flags: int) -> tuple[int, int]:
        pair: tuple[int, int] = _real["pipe2"](flags)
        if self.world.current:
            self.world.current.process.fds.update(pair)
        return pair

    def write(self, fd: int, content: Any) -> int:
        found = self._known(fd)
        if found is None or found.file is None:
            return int(_real["write"](fd, content))
        self._enter(found.volume, "write", QUICK_S)
        at = os.fstat(fd).st_size if found.appends else os.lseek(fd, 0, os.SEEK_CUR)
        taken = self._takes(found.volume, content)
        written = int(_real["write"](fd, taken))
        found.file.pending.append((at, taken))
        return written

    def pwrite(self, fd: int, content: Any, at: int) -> int:
        found = self._known(fd)
        if found is None or found.file is None:
            return int(_real["pwrite"](fd, content, at))
        self._enter(found.volume, "write", QUICK_S)
        taken = self._takes(found.volume, content, max(0, at + len(content) - os.fstat(fd).st_size))
        written = int(_real["pwrite"](fd, taken, at))
        found.file.pending.append((at, taken))
        return written

    def pwritev(self, fd: int, buffers: Any, at: int) -> int:
        return self.pwrite(fd, b"".join(buffers), at)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        for volume in self.volumes:
            if "read" in volume.fails and os.fstat(fd).st_ino in volume.files:
                self._enter(volume, "read", QUICK_S)
        return bytes(_real["pread"](fd, size, at))

    def fsync(self, fd: int) -> None:
        found = self._known(fd)
        if found is None:
            return
        volume, file = found.volume, found.file
        pending = len(file.pending) if file else len(volume.name_changes)
        try:
            self._enter(volume, "fsync", SYNC_S)
        except OSError:
            if file:
                self._drop(file)
            raise
        # What was written while it took its time is not covered.
        if file:
            file.settle(pending)
        else:
            volume.settle_names(pending)

    def _drop(self, file: File) -> None:
        pending, file.pending = file.pending, []
        for at, content in pending:
            if content is None or self.world.random.random() < 0.5:
                _apply(file.durable, at, content)

    def ftruncate(self, fd: int, size: int) -> None:
        volume = next((one for one in self.volumes if os.fstat(fd).st_ino in one.files), None)
        if volume is None:
            _real["ftruncate"](fd, size)
            return
        self._enter(volume, "ftruncate", QUICK_S)
        before = os.fstat(fd).st_size
        _real["ftruncate"](fd, size)
        self._of(volume, fd).pending.append((size, None))
        self._gives_back(volume, before - size)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        volume, name = self._find(path)
        if volume is None:
            _real["unlink"](path, dir_fd=dir_fd)
            return
        self._enter(volume, "unlink", QUICK_S)
        found = Path(path).stat()
        _real["unlink"](path)
        volume.name(name, None)
        volume.files.pop(found.st_ino, None)
        self._gives_back(volume, found.st_size)

    def rename(self, path: Any, target: Any, **more: Any) -> None:
        volume, name = self._find(path)
        if volume is None:
            _real["rename"](path, target, **more)
            return
        self._enter(volume, "rename", QUICK_S)
        file = volume.files[Path(path).stat().st_ino]
        _real["rename"](path, target)
        volume.name_changes.append((NameChange(Path(target).name, file), NameChange(name, None)))

    # --- what goes wrong

    def _enter(self, volume: Volume, call: str, takes_s: float) -> None:
        """A call begins: it takes its time, and may fail."""
        world = self.world
        world.check_alive()
        if world.current is None:
            return
        rng = world.random
        world.block(rng.uniform(0, takes_s) + (rng.uniform(0, volume.slow_s) if volume.slow_s else 0.0))
        if rng.random() < volume.fails.get(call, 0.0):
            code = rng.choice((errno.EMFILE, errno.EIO)) if call == "open" else errno.EIO
            raise OSError(code, os.strerror(code))

    def _takes(self, volume: Volume, content: Any, grows: int | None = None) -> bytes:
        """As much as is written. Raises OSError where that is nothing."""
        rng, size = self.world.random, len(content)
        if self.world.current is None:
            return bytes(content)
        if volume.short and size > 1 and rng.random() < volume.short:
            size = rng.randint(1, size - 1)
        if volume.room is not None and grows != 0:
            size = min(size, int(volume.room))
            if size == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            volume.room -= size
        return bytes(content[:size])

    def _gives_back(self, volume: Volume, size: int) -> None:
        if volume.room is not None:
            volume.room += max(0, size)

    def _find(self, path: Any) -> tuple[Volume | None, str]:
        """The volume of a path and the name in it; no name for the directory itself."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text.startswith(self._root):
            return None, ""
        if text in self._by_directory:
            return self._by_directory[text], ""
        directory, _, name = text.rpartition("/")
        return self._by_directory.get(directory), name

    def _known(self, fd: int) -> Open | None:
        """What a descriptor is; those of dead processes have been closed, and may be anything now."""
        found = self._open.get(fd)
        if found is not None and found.owner is not None and not found.owner.alive:
            del self._open[fd]
            return None
        return found

    def _of(self, volume: Volume, fd: int) -> File:
        inode = os.fstat(fd).st_ino
        file = volume.files.get(inode)
        if file is None:
            file = volume.files[inode] = File()
        return file
