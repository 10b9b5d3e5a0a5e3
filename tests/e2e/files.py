"""What the segment files alone tell, read with the base's own reader, when no process works on them any more."""

from collections.abc import Iterator
from pathlib import Path

from llmdump import record, segment
from llmdump.record import NO_EXCHANGE, Record
from llmdump.segment import Located


def records(directory: Path) -> Iterator[tuple[str, Record]]:
    """All records with the writer that stored them. Fails on anything in a file that is not a record."""
    for name in segment.find(directory):
        with segment.SegmentFile(directory, name.segment) as file:
            content = file.read(0, file.size)
        begin = segment.skip_header(content)
        for item in segment.scan(content[begin:], begin, closed=True):
            assert isinstance(item, Located), f"{name.segment}: {item}"
            if item.record.kind != "footer":
                yield name.writer, item.record


def check_every_number_is_there_once(directory: Path) -> None:
    """Each proxy instance's numbers are 1, 2, 3 …: none is missing, none was written twice."""
    numbers: dict[str, list[int]] = {}
    for _, found in records(directory):
        numbers.setdefault(found.instance, []).append(found.number)
    assert numbers
    for instance, seen in numbers.items():
        assert sorted(seen) == list(range(1, len(seen) + 1)), instance


def check_each_exchange_is_whole_in_one_writer(directory: Path, count: int, writers: set[str]) -> None:
    """So many exchanges, each with all its records in order in the files of one of these writers, which all took some."""
    stored_by: dict[str, set[str]] = {}
    kinds: dict[str, list[str]] = {}
    for writer, found in records(directory):
        if found.exchange != NO_EXCHANGE:
            stored_by.setdefault(found.exchange, set()).add(writer)
            kinds.setdefault(found.exchange, []).append(f"{found.kind} {found.direction}")
    assert len(stored_by) == count
    assert all(len(names) == 1 for names in stored_by.values())
    assert set().union(*stored_by.values()) == writers
    for seen in kinds.values():
        assert (seen[0], seen[-1]) == (f"head {record.CLIENT_TO_PROXY}", f"end {record.PROXY_TO_CLIENT}")
