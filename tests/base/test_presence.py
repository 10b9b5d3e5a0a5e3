"""Who is alive: real processes that claim slots, are killed, and leave."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from llmdump.presence import SLOTS_MAX, Card, Presence, living

# Claims a slot, says which, and holds it until its stdin ends.
HOLDER = """
import sys
from pathlib import Path
from llmdump.presence import Presence
sys.stdin.readline() if "wait" in sys.argv else None
presence = Presence.claim(Path(sys.argv[1]), "writer", "1.0")
presence.update(state="running", listen="ipc://x")
print(presence.card.slot, flush=True)
sys.stdin.read()
presence.release()
"""
WITHIN_S = 30.0


@contextlib.contextmanager
def holders(run: Path, count: int, *, at_once: bool = False) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes that each hold a slot, or are about to ask for one at the same moment."""
    command = [sys.executable, "-c", HOLDER, str(run)] + ["wait"] * at_once
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def slot_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_each_process_has_a_slot_of_its_own_and_the_lowest_is_taken(tmp_path: Path) -> None:
    with holders(tmp_path, 1) as (first,):
        assert slot_of(first) == 0
        with holders(tmp_path, 1) as (second,):
            assert slot_of(second) == 1
            assert [(card.name, card.pid) for card in living(tmp_path)] == [("writer-0", first.pid), ("writer-1", second.pid)]
            assert living(tmp_path, "proxy") == []
            first.communicate()
            assert [card.name for card in living(tmp_path)] == ["writer-1"]
            with holders(tmp_path, 1) as (third,):
                assert slot_of(third) == 0


def test_a_killed_process_frees_its_slot_and_is_not_listed(tmp_path: Path) -> None:
    for _ in range(3):
        with holders(tmp_path, 1) as (process,):
            assert slot_of(process) == 0
            assert [card.pid for card in living(tmp_path)] == [process.pid]
            process.send_signal(signal.SIGKILL)
            process.wait(WITHIN_S)
            assert living(tmp_path) == []
            assert (tmp_path / "writer-0.json").exists(), "it had no time to clean up"


def test_many_that_claim_at_the_same_moment_get_different_slots(tmp_path: Path) -> None:
    """Fifty, over the leftovers of others that were killed."""
    with holders(tmp_path, 2) as killed:
        for process in killed:
            slot_of(process)
            process.kill()
            process.wait(WITHIN_S)
    with holders(tmp_path, 50, at_once=True) as started:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        slots = [slot_of(process) for process in started]
        assert sorted(slots) == list(range(50))
        cards = living(tmp_path, "writer")
        assert {card.pid for card in cards} == {process.pid for process in started}
        assert [card.slot for card in cards] == list(range(50))


def test_whoever_takes_a_dead_processs_slot_never_shows_its_card(tmp_path: Path) -> None:
    """Between the lock and the first write of the new card the old one would speak for a dead process."""
    old = Card(role="writer", slot=0, pid=1, started_at=1.0, state="running", listen="ipc://dead")
    seen: list[Card] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.extend(living(tmp_path))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(300):
            (tmp_path / "writer-0.json").write_bytes(msgspec.json.encode(old).ljust(1023) + b"\n")
            Presence.claim(tmp_path, "writer").release()
    finally:
        done.set()
        looking.join()
    assert not [card for card in seen if card.pid == 1]


def test_a_leftover_is_not_taken_over_but_replaced(tmp_path: Path) -> None:
    path = tmp_path / "writer-0.json"
    path.write_bytes(b"leftover")
    before = path.stat().st_ino
    keeper = path.open("rb")  # keeps the number from being used again
    presence = Presence.claim(tmp_path, "writer")
    assert path.stat().st_ino != before and presence.card.slot == 0
    presence.release()
    keeper.close()


def test_a_card_says_what_was_told_last(tmp_path: Path) -> None:
    presence = Presence.claim(tmp_path, "proxy", "1.2.3")
    assert living(tmp_path)[0].state == "starting"
    presence.update(state="running", listen="127.0.0.1:1", admin="http://a", instance="0123456789abcdef")
    (card,) = living(tmp_path, "proxy")
    assert card == presence.card
    assert (card.pid, card.version, card.state, card.listen) == (os.getpid(), "1.2.3", "running", "127.0.0.1:1")
    presence.update(state="stopping")
    assert living(tmp_path)[0].state == "stopping"
    assert (tmp_path / "proxy-0.json").stat().st_mode & 0o777 == 0o600
    presence.release()
    assert living(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_readers_see_the_old_card_or_the_new_one(tmp_path: Path) -> None:
    """Never half of one: a card that is being written is not a dead process."""
    presence = Presence.claim(tmp_path, "proxy")
    presence.update(listen="x" * 200)
    missing = 0
    done = threading.Event()

    def change() -> None:
        size = 0
        while not done.is_set():
            size = (size + 37) % 300
            presence.update(listen="x" * size)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            missing += not living(tmp_path)
    finally:
        done.set()
        changing.join()
    presence.release()
    assert missing == 0


def test_looking_at_a_slot_does_not_take_it_from_who_claims_it(tmp_path: Path) -> None:
    """A look locks a leftover for an instant; a claim at that instant is tried again."""
    path = tmp_path / "writer-0.json"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    threading.Timer(0.02, os.close, [fd]).start()
    presence = Presence.claim(tmp_path, "writer")
    assert presence.card.slot == 0
    presence.release()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"role": 1}', b"\xff" * 50])
def test_a_card_that_cannot_be_read_is_nobodys(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "writer-0.json"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert living(tmp_path) == []
    os.close(fd)


def test_when_all_slots_are_taken_it_says_so(tmp_path: Path) -> None:
    held = []
    for slot in range(SLOTS_MAX):
        fd = os.open(tmp_path / f"api-{slot}.json", os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        held.append(fd)
    try:
        with pytest.raises(RuntimeError, match=f"{SLOTS_MAX} processes of role api"):
            Presence.claim(tmp_path, "api")
    finally:
        for fd in held:
            os.close(fd)
