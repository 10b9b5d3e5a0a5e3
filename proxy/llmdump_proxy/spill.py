"""The spill file of one proxy instance: batches that wait on disk for their writer. Blocking, for one thread.

    <data>/spill/<instance>.lock               locked (flock) by whoever has the instance in hand; empty
    <data>/spill/<instance>-<lane>.writer      the endpoint of the lane's writer, behind its CRC32C in hexadecimal; blanks if it
                                               never had one. `run:writer-0.sock` is a socket of this data directory,
                                               wherever that is now
    <data>/spill/<instance>-<lane>-<n>.spill   a segment: frames of one lane, one after another; n = 00000001 …

A frame is one batch (integers big-endian):

     0   4  "SPL1"
     4   4  count      records
     8   4  size       bytes of all records
    12   4  CRC32C     of the frame without these four bytes
    16   8  first      number of the first record
    24   4 × count     number of each record, less `first`
         4 × count     length of each record
         size          the records, as in `record.py`

Rules for whoever edits this:

- A lane is one writer's for good, so its file is too. `.writer` names it before anything of the lane is sent, from memory or
  from the file, or the first frame is written later still. It is overwritten in place and without growing: it must work
  on a full disk. A lane whose file names nobody was sent to nobody; nor was one whose name has a wrong checksum: it is
  synced before anything is sent, and what a power cut leaves of a name that was not may be zeros, or a part.
- A write that fails leaves no trace: the segment is cut back to the last whole frame and is not appended to again.
  Only a process that died in the middle of a write leaves a torn frame. It is the last of its segment, nobody was told
  that it was written, and it is cut.
- A damaged frame costs itself. Where its head is damaged, the next frame with a good checksum is looked for; a live instance
  tells in a gap record which numbers are lost.
- No records are synced. The file is for a process that dies; what a power cut takes is missing in the numbers. The
  writer's name is: without it, what a power cut leaves of the lane could not be sent, once its writer has any of it.
- A segment is deleted when none of its frames is needed. `Room` counts whole segments, until they are deleted, for all
  instances that this process has in hand.
"""

import array
import contextlib
import errno
import fcntl
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c

from llmdump import log
from llmdump.admin import count_swallowed
from llmdump.data_dir import DataDir
from llmdump.positions import Runs
from llmdump.record import RECORD_BYTES_MAX
from llmdump_proxy.outbox import Frame, Packed

MAGIC: Final = b"SPL1"
SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""A segment that has reached this takes no more: so much space at most waits for the last of its frames."""
SEGMENTS_MIN: Final = 8
"""With a small limit, segments are this part of it: else nothing would be given back before the end."""
ENDPOINT_BYTES: Final = 512
INSTANCE_CHARS: Final = 16
_HEAD: Final = struct.Struct(">4sIII")
_U32: Final = struct.Struct(">I")
_FIRST: Final = struct.Struct(">Q")


class SpillFullError(Exception):
    """The frame would go beyond the limit of the spill files."""


class FrameDamagedError(Exception):
    """What lies where a frame was written is not that frame."""


class Room:
    """How much all spill files in the hands of this process may take, bytes."""

    def __init__(self, limit_bytes: int, reserve_bytes: int) -> None:
        """`reserve_bytes` of the limit are for what memory holds when the process ends, but no more than half."""
        self.limit_bytes = limit_bytes
        self.running_bytes = limit_bytes - min(reserve_bytes, limit_bytes // 2)
        self.used_bytes = 0

    def has(self, size: int, *, leaving: bool) -> bool:
        """Whether so much may be written."""
        return self.used_bytes + size <= (self.limit_bytes if leaving else self.running_bytes)


class _Segment:
    """One file, and how many of its frames are needed."""

    __slots__ = ("frames", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.frames = 0


class Found(NamedTuple):
    """A lane in the files of an instance that died."""

    lane: int
    endpoint: str
    """Empty: nothing of it was ever sent to anybody."""
    frames: list[Frame]


class Spill:
    """The files of one instance. Making it touches no file; the first `write` takes the instance's lock."""

    def __init__(self, directory: Path, instance: str, room: Room, lock: int | None = None) -> None:
        """`lock` is the locked file of an instance that died."""
        self.instance = instance
        self._directory = directory
        self._data = DataDir(directory.parent)
        self._room = room
        self._lock = lock
        self._segments: dict[int, _Segment] = {}
        self._last = 0
        self._active: dict[int, tuple[int, int]] = {}  # lane: segment and descriptor
        self._writers: dict[int, str] = {}

    def write(self, lane: int, endpoint: str, packed: Packed, *, leaving: bool = False) -> Frame:
        """Append a batch. Raises OSError or SpillFullError; then nothing was written."""
        head, body = _encoded(packed), packed.body
        size = len(head) + len(body)
        if not self._room.has(size, leaving=leaving):
            raise SpillFullError
        self.name_writer(lane, endpoint)
        number, fd = self._active.get(lane) or self._open_segment(lane)
        segment = self._segments[number]
        at = segment.size
        try:
            _write_all(fd, head, body, at)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, at)
            self._leave_segment(lane)
            raise
        segment.size, segment.frames = at + size, segment.frames + 1
        self._room.used_bytes += size
        if segment.size >= min(SEGMENT_BYTES, self._room.limit_bytes // SEGMENTS_MIN):
            self._leave_segment(lane)
        return Frame(packed.numbers[0], packed.last, len(packed.numbers), len(body), number, at, size, _runs(packed))

    def read(self, frame: Frame) -> Packed:
        """The batch of a frame. Raises OSError or FrameDamagedError."""
        if frame.segment not in self._segments:
            raise FileNotFoundError(errno.ENOENT, "the instance was let go of")
        with self._segments[frame.segment].path.open("rb", buffering=0) as file:
            return _decoded(os.pread(file.fileno(), frame.file_bytes, frame.at), frame)

    def name_writer(self, lane: int, endpoint: str) -> None:
        """The lane is this writer's from now on. Raises OSError."""
        self._ensure_lock()
        if self._writers.get(lane) == endpoint:
            return
        fd = os.open(self._directory / f"{self.instance}-{lane}.writer", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _name(self._data.portable(endpoint)).ljust(ENDPOINT_BYTES), 0)
            if endpoint:
                os.fsync(fd)
        finally:
            os.close(fd)
        self._writers[lane] = endpoint

    def free(self, frames: list[Frame]) -> list[Frame]:
        """These frames are not needed any more: delete the segments that have no other. Gives those of segments that the
        disk would not delete, to be freed later."""
        kept: list[Frame] = []
        for number in sorted({frame.segment for frame in frames} & self._segments.keys()):  # none once it was let go of
            freed = [frame for frame in frames if frame.segment == number]
            self._segments[number].frames -= len(freed)
            if not self._segments[number].frames and not self._remove(number):
                self._segments[number].frames += len(freed)
                kept += freed
        return kept

    def close(self) -> None:
        """Let go of the instance. Without segments its other files are removed too. Raises OSError, having let go as well."""
        for lane in [*self._active]:
            self._leave_segment(lane)
        if self._lock is None:
            return
        for number in [number for number, segment in self._segments.items() if not segment.frames]:
            self._remove(number)
        try:
            if not self._segments:
                for path in [*self._directory.glob(f"{self.instance}-*.writer"), self._lock_path]:
                    path.unlink(missing_ok=True)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Leave the files as they are to whoever looks at them next. Raises OSError."""
        self._room.used_bytes -= sum(segment.size for segment in self._segments.values())
        self._segments.clear()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def found(self) -> list[Found]:
        """What the files of an instance that died hold, by lane; torn frames are cut. Raises OSError."""
        lanes: dict[int, list[Frame]] = {}
        for path in sorted(self._directory.glob(f"{self.instance}-*.spill")):
            lane, number = (int(part) for part in path.stem.split("-")[1:])
            frames = list(_frames(path, number))
            segment = self._segments[number] = _Segment(path)
            self._last = max(self._last, number)
            segment.frames, segment.size = len(frames), path.stat().st_size
            self._room.used_bytes += segment.size
            if frames:
                lanes.setdefault(lane, []).extend(frames)
            else:
                self._delete(number)
        return [Found(lane, self._read_writer(lane), sorted(frames)) for lane, frames in sorted(lanes.items())]

    @property
    def _lock_path(self) -> Path:
        return self._directory / f"{self.instance}.lock"

    def _ensure_lock(self) -> None:
        if self._lock is None:
            self._lock = _lock(self._lock_path)
            if self._lock is None:
                raise BlockingIOError(errno.EAGAIN, f"another process looks at {self._lock_path}")

    def _read_writer(self, lane: int) -> str:
        try:
            name = (self._directory / f"{self.instance}-{lane}.writer").read_bytes().rstrip(b" ")
        except FileNotFoundError:
            return ""
        endpoint = name.partition(b" ")[2].decode(errors="replace")
        self._writers[lane] = self._data.endpoint(endpoint) if name == _name(endpoint) else ""
        return self._writers[lane]

    def _open_segment(self, lane: int) -> tuple[int, int]:
        number = self._last + 1
        path = self._directory / f"{self.instance}-{lane}-{number:08}.spill"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._last = number
        self._segments[number] = _Segment(path)
        self._active[lane] = number, fd
        return self._active[lane]

    def _leave_segment(self, lane: int) -> None:
        """Append to it no more; without a frame it goes at once."""
        number, fd = self._active.pop(lane)
        with contextlib.suppress(OSError):
            os.close(fd)
        if not self._segments[number].frames:
            with contextlib.suppress(OSError):
                self._delete(number)

    def _remove(self, number: int) -> bool:
        """Delete a segment without a frame, also the active one; False if the disk refuses."""
        for lane in [lane for lane, (active, _) in self._active.items() if active == number]:
            self._leave_segment(lane)
        try:
            self._delete(number)
        except OSError:
            return False
        return True

    def _delete(self, number: int) -> None:
        if number in self._segments:
            self._segments[number].path.unlink(missing_ok=True)
            self._room.used_bytes -= self._segments.pop(number).size


def orphans(directory: Path, room: Room) -> Iterator[Spill]:
    """The files of instances whose process has died, each locked for the caller from here on. Raises OSError."""
    for path in sorted(directory.glob("*.lock")):
        if len(path.stem) == INSTANCE_CHARS and (lock := _lock(path)) is not None:
            yield Spill(directory, path.stem, room, lock)


def _lock(path: Path) -> int | None:
    """A locked descriptor of the file at `path`, made where there is none; None if another has it, if only for an instant."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed it between our open and our lock.
        if path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def _name(endpoint: str) -> bytes:
    """A writer's name as its file has it; nothing for nobody."""
    name = endpoint.encode()
    return b"%08x %s" % (google_crc32c.value(name), name) if name else b""


def _runs(packed: Packed) -> bytes:
    """The numbers of a batch as its frame keeps them in memory: some bytes a hole."""
    if isinstance(packed.numbers, range):
        return b""
    runs, first = Runs(), packed.numbers[0]
    for number in packed.numbers:
        runs.add(number - first, 1)
    return runs.packed()


def _encoded(packed: Packed) -> bytes:
    """A frame without the records."""
    first = packed.numbers[0]
    offsets = array.array("I", (number - first for number in packed.numbers))
    lengths = array.array("I", packed.lengths)
    if sys.byteorder == "little":
        offsets.byteswap()
        lengths.byteswap()
    rest = _FIRST.pack(first) + offsets.tobytes() + lengths.tobytes()
    head = _HEAD.pack(MAGIC, len(lengths), len(packed.body), 0)[:12]
    crc: int = google_crc32c.extend(google_crc32c.value(head + rest), packed.body)
    return b"".join((head, _U32.pack(crc), rest))


def _decoded(content: bytes, frame: Frame) -> Packed:
    if len(content) != frame.file_bytes:
        raise FrameDamagedError
    magic, count, size, _ = _HEAD.unpack_from(content)
    body_at = 24 + 8 * frame.records
    if (magic, count, size) != (MAGIC, frame.records, frame.size_bytes) or not _is_whole(content):
        raise FrameDamagedError
    offsets, lengths = array.array("I", content[24 : 24 + 4 * count]), array.array("I", content[24 + 4 * count : body_at])
    if sys.byteorder == "little":
        offsets.byteswap()
        lengths.byteswap()
    return Packed([frame.first + offset for offset in offsets], lengths, content[body_at:])


def _is_whole(content: bytes) -> bool:
    """Whether the checksum of exactly one frame's bytes holds."""
    if len(content) < 24:
        return False
    crc: int = google_crc32c.extend(google_crc32c.value(content[:12]), content[16:])
    found: int = _U32.unpack_from(content, 12)[0]
    return crc == found


def _frames(path: Path, segment: int) -> Iterator[Frame]:
    """The frames of a segment, from their heads. Where none begins, the next whole one is looked for; what is torn at the end
    is cut."""
    with path.open("r+b", buffering=0) as file:
        fd, end, at = file.fileno(), path.stat().st_size, 0
        while at < end:
            frame = _frame_at(fd, segment, at)
            if frame is None or not (_ends_well(fd, frame, end) or _is_whole(os.pread(fd, frame.file_bytes, at))):
                next_at = _next_frame(fd, segment, at + 1, end)
                if next_at is None:
                    _cut_torn(fd, path, at)
                    return
                count_swallowed("spill_damage")
                log.error("spill_damaged", file=path.name, offset=at, bytes=next_at - at)
                at = next_at
                continue
            yield frame
            at += frame.file_bytes


def _cut_torn(fd: int, path: Path, at: int) -> None:
    log.warning("spill_torn_tail_cut", file=path.name, bytes=os.fstat(fd).st_size - at)
    os.ftruncate(fd, at)


def _ends_well(fd: int, frame: Frame, end: int) -> bool:
    """Whether the file ends where this one does, or a frame begins there: else its head may be damaged."""
    behind = frame.at + frame.file_bytes
    return behind == end or (behind < end and os.pread(fd, len(MAGIC), behind) == MAGIC[: end - behind])


def _next_frame(fd: int, segment: int, at: int, end: int) -> int | None:
    """Where a frame begins whose checksum holds."""
    with mmap.mmap(fd, end, access=mmap.ACCESS_READ) as content:
        at = content.find(MAGIC, at)
        while at >= 0:
            frame = _frame_at(fd, segment, at)
            if frame is not None and at + frame.file_bytes <= end and _is_whole(content[at : at + frame.file_bytes]):
                return at
            at = content.find(MAGIC, at + 1)
    return None


def _frame_at(fd: int, segment: int, at: int) -> Frame | None:
    head = os.pread(fd, 24, at)
    if len(head) < 24:
        return None
    magic, count, size, _ = _HEAD.unpack_from(head)
    if magic != MAGIC or not count or size > RECORD_BYTES_MAX:
        return None
    last = os.pread(fd, 4, at + 24 + 4 * (count - 1))
    (first,) = _FIRST.unpack_from(head, 16)
    return Frame(first, first + int.from_bytes(last), count, size, segment, at, 24 + 8 * count + size)


def _write_all(fd: int, head: bytes, body: bytes, at: int) -> None:
    """Write both, also where the kernel takes only a part at a time."""
    written = os.pwritev(fd, [head, body], at)
    rest = memoryview(head + body)[written:] if written < len(head) + len(body) else memoryview(b"")
    while rest:
        at += written
        written = os.pwrite(fd, rest, at)
        rest = rest[written:]
