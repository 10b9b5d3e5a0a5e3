"""What a writer acknowledges is in its files, once, whatever happens to it: real processes, sockets and files."""

import random
import re
import sys
import time
from pathlib import Path

import pytest
from needs import needs_tool

from llmdump import record, wire
from llmdump.wire import Ack, Have, Hello, Resync, Retire
from tests.patience import WAIT_S
from tests.writer.writer_rig import Proxy, Writer, chunk, files, numbers, stored, wait_for

FORMATS = (*(pytest.param(one, marks=pytest.mark.only_long) for one in ("cbor", "jsonl")), "both")


def formats_of(capture_format: str) -> list[str]:
    """The files of a capture format."""
    return ["cbor", "jsonl"] if capture_format == "both" else [capture_format]


@pytest.mark.parametrize("capture_format", FORMATS)
def test_what_is_acknowledged_is_in_the_files(tmp_path: Path, capture_format: str) -> None:
    data = tmp_path / "data"
    sent = [chunk(number, b"body %d" % number, "00000000000000aa") for number in range(1, 51)]
    with Writer(data, capture_format=capture_format) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 0
        proxy.batch(sent[:20])
        proxy.batch(sent[20:])
        proxy.acknowledged(50)
        writer.kill()
    for one in formats_of(capture_format):
        assert stored(data, one) == [record.decode(record_bytes) for record_bytes in sent]


def test_an_acknowledgement_comes_after_the_sync_and_not_before(tmp_path: Path) -> None:
    """Each fdatasync is made to take 0.4 s: so long no ACK may come, though the bytes are in the file at once."""
    strace = needs_tool("strace")
    slow = [str(strace), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    slow += ["-e", "inject=fdatasync:delay_enter=400000"]
    with Writer(tmp_path / "data", command=slow) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        begin = time.monotonic()
        proxy.send(1, 5)
        wait_for(lambda: files(writer.data))
        proxy.acknowledged(5)
        assert time.monotonic() - begin >= 0.4


def test_with_fsync_off_nothing_is_synced(tmp_path: Path) -> None:
    strace = needs_tool("strace")
    trace = tmp_path / "trace"
    command = [str(strace), "-D", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync,fsync,write"]
    with Writer(tmp_path / "data", command=command, fsync="off") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 5)
        proxy.acknowledged(5)
        writer.kill()
    assert "sync(" not in wait_for(trace.read_text)


def test_one_flush_is_one_write_and_one_sync_and_a_new_name_is_synced_too(tmp_path: Path) -> None:
    strace = needs_tool("strace")
    trace = tmp_path / "trace"
    command = [str(strace), "-D", "-f", "-qq", "-y", "-o", str(trace), "-e", "trace=fdatasync,fsync,write"]
    with Writer(tmp_path / "data", command=command) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        for first in (1, 101, 201):
            proxy.send(first, first + 99)
            proxy.acknowledged(first + 99)
        writer.kill()
    calls = re.findall(r"(\w+)\(\d+<[^>]*/segments(/w0-00000001.cbor)?>", trace.read_text())
    flush = [("write", "/w0-00000001.cbor"), ("fdatasync", "/w0-00000001.cbor")]
    assert calls == [*flush, ("fsync", ""), *flush, *flush], "the directory once, for the new name"


@pytest.mark.parametrize("capture_format", FORMATS)
def test_a_batch_sent_again_after_kill_9_is_stored_once(tmp_path: Path, capture_format: str) -> None:
    data, sent = tmp_path / "data", 300
    acknowledged = 0
    rng = random.Random(5)
    for _ in range(6):
        with Writer(data, capture_format=capture_format) as writer, Proxy(writer.card().listen) as proxy:
            held = proxy.hello()
            assert acknowledged <= held <= sent
            for first in range(held + 1, sent + 1, 7):
                proxy.send(first, min(first + 6, sent))
            until = time.monotonic() + rng.uniform(0.0, 0.08)
            while (left := until - time.monotonic()) > 0:
                answer = proxy.hear(left)
                if isinstance(answer, Ack):
                    acknowledged = max(acknowledged, answer.held)
            writer.kill()
        sent += 300
    with Writer(data, capture_format=capture_format) as writer, Proxy(writer.card().listen) as proxy:
        held = proxy.hello()
        for first in range(held + 1, sent + 1, 100):  # on a slow machine more is left than one batch may hold
            proxy.send(first, min(first + 99, sent))
        proxy.acknowledged(sent)
    for one in formats_of(capture_format):
        assert numbers(data, one) == list(range(1, sent + 1))


def test_a_restarted_writer_holds_what_was_acknowledged_and_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 30)
        proxy.acknowledged(30)
        writer.kill()
    with Writer(data) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 30
        proxy.send(20, 40)
        proxy.acknowledged(40)
        assert writer.metrics()["llmdump_records_duplicate_total"] == 11
    assert numbers(data) == list(range(1, 41))
    assert set(files(data)) == {"w0-00000001.cbor", "w0-00000002.cbor"}


def test_every_instance_is_known_again_after_a_clean_stop_and_sealing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    instances = {f"{n:016x}": 10 + n for n in range(5)}
    with Writer(data, capture_max_bytes=4096) as writer:
        for name, last in instances.items():
            with Proxy(writer.card().listen, name) as proxy:
                proxy.hello()
                proxy.send(1, last)
                proxy.acknowledged(last)
        writer.stop()
    with Writer(data, capture_seal="true", capture_max_bytes=4096) as writer:
        wait_for(lambda: all(name.endswith(".zst") for name in files(data)))
        writer.kill()
    with Writer(data) as writer:
        for name, last in instances.items():
            with Proxy(writer.card().listen, name) as proxy:
                assert proxy.hello() == last


def test_a_duplicate_is_left_out_record_by_record_and_acknowledged(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 10)
        proxy.acknowledged(10)
        proxy.send(1, 10)
        proxy.acknowledged(10)
        proxy.send(6, 15)
        proxy.acknowledged(15)
        assert numbers(writer.data) == list(range(1, 16))


def test_holes_in_the_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.batch([chunk(number, b"x", proxy.instance) for number in (2, 3, 7, 11)])
        proxy.acknowledged(11)
        assert numbers(writer.data) == [2, 3, 7, 11]


# --- the session's rules (docs/wire.md)


def test_an_unknown_session_is_told_to_begin_again(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.nonce = b"unknown!"
        proxy.send(1, 1)
        assert proxy.hear() == Resync(b"unknown!")
        proxy.hello()
        proxy.send(1, 1)
        proxy.acknowledged(1)


def test_a_batch_out_of_order_ends_the_session_once(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.seq = 1
        proxy.send(10, 11)
        assert proxy.hear() == Resync(proxy.nonce)
        proxy.send(12, 13)
        assert proxy.hear(0.2) is None
        proxy.hello()
        proxy.send(1, 2)
        proxy.acknowledged(2)
        assert numbers(writer.data) == [1, 2]


def test_a_hello_makes_durable_first_what_was_taken(tmp_path: Path) -> None:
    """Else a batch of the old session would become durable after the HAVE, and the proxy's resend be stored twice."""
    with Writer(tmp_path / "data", capture_flush_interval=30) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 9)
        assert proxy.hello() == 9
        assert numbers(writer.data) == list(range(1, 10))


def test_a_batch_that_lies_is_left_whole(tmp_path: Path) -> None:
    good = chunk(2, b"good", "00000000000000aa")
    flipped = bytearray(chunk(3, b"body", "00000000000000aa"))
    flipped[42] ^= 1  # in its data: only the checksum tells
    stranger = chunk(3, b"body", "00000000000000bb")
    lies = [
        [good, bytes(flipped)],
        [good, stranger],
        [good, good],
        [good, chunk(1, b"x", "00000000000000aa")],
        [good, b"\xa5\x62ts\xfb" + bytes(200)],
        [good, bytes(200)],
        [good, good[:-1] + b"\x00" + bytes(9)],
    ]
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        for lie in lies:
            proxy.hello()
            proxy.say(wire.Batch(proxy.nonce, 1, 2, 3, [len(one) for one in lie], b"".join(lie)))
            assert proxy.hear() == Resync(proxy.nonce)
        proxy.hello()
        proxy.batch([good, chunk(3, b"body", "00000000000000aa")])
        proxy.acknowledged(3)
        assert numbers(writer.data) == [2, 3]
        assert writer.metrics()['llmdump_swallowed_errors_total{where="writer_protocol"}'] == len(lies)


def test_frames_that_the_protocol_does_not_have_get_no_answer(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        for frames in ([b""], [b"LLMD9H12345678"], [b"LLMD1H"], [b"a", b"b", b"c"], [b"LLMD1B" + bytes(40), b""]):
            proxy.send_frames(frames)
        assert proxy.hear(0.2) is None
        assert proxy.hello() == 0
        assert writer.log.count("proxy_breaks_protocol") == 1
        with Proxy(writer.card().listen, "short") as stranger:
            stranger.say(Hello(b"12345678"))
            assert stranger.hear(0.2) is None


def test_records_of_other_seq_values_are_taken_by_their_checksum(tmp_path: Path) -> None:
    one = bytearray(chunk(1, b"x", "00000000000000aa"))
    record.patch_seq(one, 0, 77)
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.batch([bytes(one)])
        proxy.acknowledged(1)
        assert numbers(writer.data) == [1]


# --- leaving


def test_a_writer_that_stops_acknowledges_says_retire_and_leaves_a_closed_segment(tmp_path: Path) -> None:
    with Writer(tmp_path / "data", capture_flush_interval=30) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 5)
        wait_for(lambda: writer.metrics()["llmdump_writer_lag_seconds"] > 0)
        writer.stop(2.0)
        assert [proxy.hear(), proxy.hear()] == [Ack(proxy.nonce, 5), Retire()]
    assert numbers(writer.data) == [1, 2, 3, 4, 5]
    content = (writer.data / "segments" / "w0-00000001.cbor").read_bytes()
    assert record.decode(content[content.rindex(record.MAGIC) :]).kind == "footer"


def test_a_writer_that_stops_takes_what_came_while_it_was_writing(tmp_path: Path) -> None:
    strace = needs_tool("strace")
    slow = [str(strace), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    slow += ["-e", "inject=fdatasync:delay_enter=800000"]
    with Writer(tmp_path / "data", command=slow) as writer, Proxy(writer.card().listen) as proxy:
        proxy.hello()
        proxy.send(1, 1)
        wait_for(lambda: files(writer.data))  # written, not synced yet
        proxy.send(2, 3)
        writer.process.terminate()
        proxy.acknowledged(3)
        assert writer.process.wait(WAIT_S) == 0
    assert numbers(writer.data) == [1, 2, 3]


def test_a_writer_waits_for_the_proxies_that_stop_and_takes_their_last_records(tmp_path: Path) -> None:
    from llmdump.presence import Presence

    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        other = Presence.claim(writer.data / "run", "proxy")
        other.update(state="stopping")
        proxy.hello()
        writer.process.terminate()
        wait_for(lambda: writer.card().state == "stopping" or None)
        for number in range(1, 30):
            proxy.send(number, number)
            proxy.acknowledged(number)
        assert writer.process.poll() is None
        other.release()
        assert writer.process.wait(WAIT_S) == 0
    assert numbers(writer.data) == list(range(1, 30))


def test_a_writer_leaves_within_four_seconds_even_if_a_proxy_never_does(tmp_path: Path) -> None:
    from llmdump.presence import Presence

    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        other = Presence.claim(writer.data / "run", "proxy")
        other.update(state="stopping")
        proxy.hello()
        proxy.send(1, 3)
        assert writer.stop() > 2.5
        other.release()
    assert numbers(writer.data) == [1, 2, 3]


def test_nothing_is_left_running_or_locked(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer:
        socket = Path(writer.card().listen.removeprefix("ipc://"))
        assert socket.is_socket() and socket.stat().st_mode & 0o777 == 0o700
        writer.kill()
        assert socket.exists()
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        assert Path(writer.card().listen.removeprefix("ipc://")) == socket
        proxy.hello()
        writer.stop()
    assert list((tmp_path / "data" / "run").iterdir()) == []


def test_writers_side_by_side_have_their_own_files_and_endpoints(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Writer(data) as first, Writer(data) as second:
        endpoints = {first.card().listen, second.card().listen}
        assert len(endpoints) == 2
        for endpoint, name in zip(sorted(endpoints), ("00000000000000aa", "00000000000000bb"), strict=True):
            with Proxy(endpoint, name) as proxy:
                assert proxy.hello() == 0
                proxy.send(1, 20)
                proxy.acknowledged(20)
        assert set(files(data)) == {"w0-00000001.cbor", "w1-00000001.cbor"}
        first.kill()
        second.kill()
    with Writer(data) as first, Writer(data) as second:
        cards = sorted((first.card(), second.card()), key=lambda card: card.slot)
        for card, name in zip(cards, ("00000000000000aa", "00000000000000bb"), strict=True):
            with Proxy(card.listen, name) as proxy:
                assert proxy.hello() == 20


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5555", "tcp://10.0.0.1:5555", "tcp://[::]:5555"])
def test_an_endpoint_that_strangers_reach_is_refused_in_one_line(tmp_path: Path, endpoint: str) -> None:
    with Writer(tmp_path / "data", writer_endpoints=endpoint) as writer:
        assert writer.process.wait(WAIT_S) == 1
        assert "CURVE" in writer.log and writer.log.count("\n") == 1


def test_a_fixed_endpoint_is_used_and_a_writer_too_many_is_refused(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/own.sock"
    with Writer(tmp_path / "data", writer_endpoints=endpoint) as writer, Proxy(endpoint) as proxy:
        assert writer.card().listen == endpoint
        assert proxy.hello() == 0
        with Writer(tmp_path / "data", writer_endpoints=endpoint) as second:
            assert second.process.wait(WAIT_S) == 1
            assert "writer_endpoints names 1" in second.log


def test_tcp_on_loopback_works(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with Writer(tmp_path / "data", writer_endpoints=endpoint) as writer, Proxy(writer.card().listen) as proxy:
        assert proxy.hello() == 0


def test_an_endpoint_in_use_is_one_line(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with Writer(tmp_path / "data", writer_endpoints=endpoint) as writer:
            assert writer.process.wait(WAIT_S) == 1
            assert "cannot take records at" in writer.log or "in use" in writer.log


def test_have_names_the_writer(tmp_path: Path) -> None:
    with Writer(tmp_path / "data") as writer, Proxy(writer.card().listen) as proxy:
        proxy.say(Hello(b"12345678"))
        assert proxy.hear() == Have(b"12345678", 0, "w0")


if sys.platform != "linux":
    pytestmark = pytest.mark.skip("the faults are injected with Linux tools")
