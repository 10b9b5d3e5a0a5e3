"""What was promised, by whom and when; and whether it was kept. Knows nothing of how the product works inside.

    made       the recorder gave out the number; `dropped` if there was no room for it
    sent       it went to a writer in a batch
    promised   a writer said so (`held` of HAVE or ACK, for what was sent to it), or it is in a spill file, whole

`said` checks the first promise at the moment it is made: with `fsync: flush` against what a power cut would leave at that
moment. `judge`, at the end, reads all segments as the product does and checks:

- each promised record is there, once, byte for byte; nothing else is there that was not made
- of an instance that lives or said goodbye all is there, but for what a gap record names with the right reason
- the certificate says exactly that: the numbers present, each missing one, the reason, the state, where knowledge ends
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from llmdump import record, segment, window, wire
from llmdump.certificate import UNKNOWN
from llmdump.commands import verify
from llmdump.data_dir import DataDir
from llmdump.segment import Located, SegmentFile
from tests.simulation.disk import File, Volume
from tests.simulation.world import Process, Violation, World


class Instance:
    """One run of one proxy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[int, bytes] = {}
        """Taken by the shelf."""
        self.dropped: dict[int, str] = {}
        self.unreadable: set[int] = set()
        """Handed over and then lost with their place in the spill file; the proxy was told."""
        self.spilled: set[int] = set()
        self.acknowledged: set[int] = set()
        self.sent: dict[tuple[str, str], dict[int, None]] = {}
        """By process, it may be another that sends what this one had spilled, and endpoint."""
        self.held: dict[str, int] = {}
        self.state = "living"
        """`living`, `ended`, `died`, as the certificate should say."""
        self.given_up = 0
        """Records that a proxy which stopped could neither hand over nor spill."""

    @property
    def made(self) -> int:
        return max([0, *self.records, *self.dropped])

    @property
    def promised(self) -> set[int]:
        return self.acknowledged | (self.spilled - self.unreadable)


class Truth:
    """All instances of a run."""

    def __init__(self, world: World, segments: Volume, fsync: str, formats: tuple[str, ...], writers: dict[str, str]) -> None:
        """`writers` are their names by endpoint."""
        self.instances: dict[str, Instance] = {}
        self.acknowledged = 0
        self._world = world
        self._segments = segments
        self._fsync = fsync
        self._formats = formats
        self._writers = writers
        self._scanned: dict[tuple[int, str], tuple[File, _Scan]] = {}

    def of(self, name: str) -> Instance:
        found = self.instances.get(name)
        if found is None:
            found = self.instances[name] = Instance(name)
        return found

    # --- while it runs

    def sent(self, process: Process, endpoint: str, peer: bytes, frames: list[bytes]) -> None:
        """A proxy handed a message over."""
        message = wire.from_proxy(frames)
        if isinstance(message, wire.Batch):
            numbers = self.of(peer.decode()).sent.setdefault((process.name, endpoint), {})
            at = 0
            for size in message.lengths:
                numbers[record.number_of(message.body[at : at + size])] = None
                at += size

    def said(self, process: Process, endpoint: str, peer: bytes, frames: list[bytes]) -> None:
        """A writer handed a message over, for this process: a promise for what that has sent to it. What the instance's own
        process had under way when it died, and nowhere else, is promised to nobody."""
        message = wire.from_writer(frames)
        if not isinstance(message, wire.Ack | wire.Have):
            return
        one = self.of(peer.decode())
        before = one.held.get(endpoint, 0)
        if message.held < before:
            self._world.fail(Violation(f"{endpoint} held {before} of {one.name}, and now {message.held}"))
        sent = one.sent.get((process.name, endpoint), ())
        promised = [number for number in sent if before < number <= message.held]
        one.held[endpoint] = max(before, message.held)
        for number in promised:
            if number not in one.acknowledged:
                one.acknowledged.add(number)
                self.acknowledged += 1
        missing = self._not_stored(self._writers[endpoint], one.name, promised)
        if missing:
            where = "durable" if self._fsync == "flush" else "written"
            self._world.fail(Violation(f"acknowledged and not {where}: {one.name} {missing[:5]} at {endpoint}"))

    def _not_stored(self, writer: str, instance: str, numbers: list[int]) -> list[int]:
        rest = {(file_format, number) for file_format in self._formats for number in numbers}
        volume = self._segments
        flushed = self._fsync == "flush"
        names = list(volume.durable_names) if flushed else [name.file for name in segment.find(volume.directory)]
        for file in sorted(names, reverse=True):
            name = segment.parse_name(file)
            if not rest:
                break
            if name is None or name.writer != writer:
                continue
            found = self._numbers(name, volume).get(instance, set())
            rest = {(one, number) for one, number in rest if one != name.format or number not in found}
        return sorted(number for _, number in rest)

    def _numbers(self, name: segment.Name, volume: Volume) -> dict[str, set[int]]:
        path = volume.directory / name.file
        if name.sealed:
            durable = self._fsync != "flush" or volume.durable_names[name.file].durable == path.read_bytes()
            return _Scan().sealed(volume.directory, name) if durable else {}
        if self._fsync == "flush":
            file = volume.durable_names[name.file]
            content = file.durable
        else:
            content, file = bytearray(path.read_bytes()), volume.files[path.stat().st_ino]
        kept = self._scanned.get((id(file), name.file))
        scan = kept[1] if kept and kept[1].end <= len(content) else _Scan()
        self._scanned[id(file), name.file] = file, scan
        return scan.go_on(name.format, content)

    # --- at the end

    def judge(self, data: DataDir) -> None:
        """Raises Violation."""
        stored = _read(data.segments, self._formats)
        found = verify.certify(data, verify.Window(), lambda read_bytes: None)
        survey = found.survey
        if survey.damages or survey.duplicates or survey.torn_bytes:
            raise Violation(f"damage in healthy files: {survey.damages} {survey.duplicates=} {survey.torn_bytes=}")
        if survey.deleted:
            raise Violation(f"nothing was deleted, and not there is said to be: {survey.deleted}")
        certified = {one.statement.instance: one for one in found.instances}
        for name in sorted({*stored, *self.instances}):
            if name not in self.instances:
                raise Violation(f"records of an instance that never was: {name}")
            self._judge_one(self.instances[name], stored.get(name, {}), certified.get(name))

    def _judge_one(self, one: Instance, stored: dict[int, bytes | record.Record], certified: Any) -> None:
        never_made = sorted(set(stored) - set(one.records))
        if never_made:
            raise Violation(f"{one.name}: stored and never handed over: {never_made[:5]}")
        for number, content in stored.items():
            if not _same(one.records[number], content):
                raise Violation(f"{one.name}: record {number} is not what was made")
        lost = sorted(one.promised - set(stored))
        if lost:
            raise Violation(f"{one.name} ({one.state}): promised and not stored: {_short(lost)}")
        unexplained = sorted(set(one.records) - set(stored) - one.unreadable)
        if one.state != "died" and len(unexplained) > one.given_up:
            raise Violation(f"{one.name} ({one.state}): lost, and nothing had happened to it: {_short(unexplained)}")
        self._judge_certificate(one, stored, certified)

    def _judge_certificate(self, one: Instance, stored: dict[int, Any], certified: Any) -> None:
        if certified is None:
            if stored:
                raise Violation(f"{one.name}: nothing certified, {len(stored)} records stored")
            return
        said = certified.statement
        state = "died" if one.state == "ended" and one.made not in stored else one.state
        if said.state != state or said.present != len(stored) or said.under_way:
            raise Violation(f"{one.name}: is {state} with {len(stored)} records, the certificate says {said}")
        if (said.unknown_after is not None) != (state == "died") or said.unknown_after not in {None, said.made}:
            raise Violation(f"{one.name}: {state}, unknown after {said.unknown_after}")
        if max(stored, default=0) > said.made or (state != "died" and said.made != one.made):
            raise Violation(f"{one.name}: made {one.made}, the certificate says {said.made}")
        told = {number: gap.reason for gap in said.missing for number in range(gap.first, gap.last + 1)}
        if set(told) != set(range(1, said.made + 1)) - set(stored):
            raise Violation(f"{one.name}: the certificate names other numbers as missing than are")
        for number, reason in told.items():
            right = one.dropped.get(number) or ("spill_unreadable" if number in one.unreadable else UNKNOWN)
            if reason != right and not (reason == UNKNOWN and (state == "died" or one.given_up)):
                raise Violation(f"{one.name}: {number} is missing because of {right}, told is {reason}")


class _Scan:
    """What a file has shown, up to some byte."""

    def __init__(self) -> None:
        self.end = 0
        self._numbers: dict[str, set[int]] = {}

    def go_on(self, file_format: str, content: bytearray) -> dict[str, set[int]]:
        if self.end == 0 and file_format == "cbor":
            self.end = segment.skip_header(bytes(content[:4096]))
            if self.end == 0:
                return {}
        for found in window.scan(file_format, bytes(content[self.end :]), self.end, closed=False):
            self.end = found.offset + found.size
            if isinstance(found, Located):
                self._numbers.setdefault(found.record.instance, set()).add(found.record.number)
        return self._numbers

    def sealed(self, directory: Path, name: segment.Name) -> dict[str, set[int]]:
        with SegmentFile(directory, name.segment) as file:
            return self.go_on(name.format, bytearray(file.read(0, file.size)))


def _read(directory: Path, formats: tuple[str, ...]) -> dict[str, dict[int, bytes | record.Record]]:
    """All records by instance and number. Raises Violation for what is there twice, or not in all formats."""
    by_format: dict[str, dict[str, dict[int, bytes | record.Record]]] = {one: {} for one in formats}
    for name in segment.find(directory):
        with SegmentFile(directory, name.segment) as file:
            content = file.read(0, file.size)
        begin = segment.skip_header(content) if name.format == "cbor" else 0
        for found in window.scan(name.format, content[begin:], begin, closed=True):
            if not isinstance(found, Located):
                raise Violation(f"{name.file}: damage at {found.offset}, {found.size} bytes")
            one = found.record
            if one.kind == "footer":
                continue
            numbers = by_format[name.format].setdefault(one.instance, {})
            if one.number in numbers:
                raise Violation(f"{one.instance}: record {one.number} is stored twice, the second time in {name.file}")
            raw = content[found.offset : found.offset + found.size]
            numbers[one.number] = raw if name.format == "cbor" else one
    first, *more = by_format.values()
    for other in more:
        counts = Counter({name: len(numbers) for name, numbers in first.items()})
        if counts != Counter({name: len(numbers) for name, numbers in other.items()}):
            raise Violation("the two formats hold different records")
    return first


def _same(made: bytes, found: bytes | record.Record) -> bool:
    if isinstance(found, record.Record):
        return record.decode(made) == found
    return made[: record.SEQ_AT] == found[: record.SEQ_AT] and made[record.SEQ_AT + 8 :] == found[record.SEQ_AT + 8 :]


def _short(numbers: list[int]) -> str:
    return f"{len(numbers)}: {numbers[:6]}{' …' if len(numbers) > 6 else ''}"


NEVER = math.inf
