"""A new proxy takes the port over while the old one finishes for its clients; and how a proxy leaves that is told to."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from llmdump import address, presence
from llmdump_proxy.handover import HELLO, SERVING
from tests.e2e.load import Load, Reading
from tests.e2e.pipeline import BIN, LEFT_WITHIN_S, Pipeline, left
from tests.patience import WAIT_S, eventually

pytestmark = pytest.mark.xdist_group("e2e-takeover")
REQUEST: Final = b"GET /sim/bytes/7 HTTP/1.1\r\nHost: x\r\n\r\n"
ENDLESS: Final = "/sim/chunks?n=100000&size=10&gap_ms=50"


@pytest.fixture
def alone(backend: str, tmp_path: Path) -> Iterator[Pipeline]:
    """A proxy, and a writer that takes what it records, so that it need not wait for one when it leaves."""
    pipe = Pipeline(tmp_path / "pipeline", upstream=backend)
    try:
        pipe.start("writer", "proxy")
        pipe.wait_until_runs("writer")
        pipe.wait_until_runs("proxy")
        yield pipe
    except BaseException:
        pipe.discard()
        raise
    pipe.close()


@contextlib.contextmanager
def client(pipe: Pipeline) -> Iterator[socket.socket]:
    """A client's connection."""
    with socket.create_connection(address.split(pipe.proxy.removeprefix("http://")), timeout=WAIT_S) as sock:
        yield sock


def ask(sock: socket.socket) -> bytes:
    """The head of the answer to one more request."""
    sock.sendall(REQUEST)
    received = b""
    while not received.endswith(b"\r\n\r\n\x00\x01\x02\x03\x04\x05\x06"):
        data = sock.recv(4096)
        assert data, received
        received += data
    return received[:-7]


def test_retiring_proxy_keeps_an_idle_connection_for_one_more_request_and_leaves_when_all_have_gone(alone: Pipeline) -> None:
    with client(alone) as idle:
        assert b"Connection: close" not in ask(idle)
        before = alone.take_over()
        assert alone.state(before) == "retiring"
        told = alone.llmdump("status").stdout
        assert [line.split()[:2] for line in told.splitlines()[:2]] == [["proxy-0", "retiring"], ["proxy-1", "ok"]]
        assert b"Connection: close" in ask(idle)
        assert idle.recv(1) == b""
    assert before.wait(WAIT_S) == 0
    assert "retiring process=proxy-0 clients=1" in alone.log()


def test_a_port_passes_from_proxy_to_proxy_and_nobody_who_connects_is_refused(alone: Pipeline) -> None:
    with Load(alone.proxy, workers=2) as keeping, contextlib.ExitStack() as stack:
        before = [alone.take_over() for _ in range(3)]
        new = [stack.enter_context(Load(alone.proxy, workers=1)) for _ in range(4)]
        for load in (keeping, *new):
            load.wait_for_more(4)
        assert [process.wait(WAIT_S) for process in before] == [0, 0, 0]
    assert [error for load in (keeping, *new) for error in load.errors] == []


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.only_long), signal.SIGQUIT], ids=["stopped", "retired"]
)
def test_no_request_breaks_when_one_of_two_proxies_on_a_port_leaves(alone: Pipeline, number: signal.Signals) -> None:
    """Busy clients that keep their connections are told to connect anew, and go to the other."""
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(alone.proxy, workers=4)) for _ in range(2)]
        for _ in range(2):
            other = alone.also("proxy")
            alone.wait_until_runs(other)
            before, alone.processes["proxy"] = alone.processes["proxy"], alone.processes.pop(other)
            for load in loads:
                load.wait_for_more(8)
            before.send_signal(number)
            assert left(before, WAIT_S if number == signal.SIGQUIT else LEFT_WITHIN_S) == 0
    assert [error for load in loads for error in load.errors] == []


def test_a_client_that_pauses_between_requests_is_told_before_a_stopped_proxy_leaves(alone: Pipeline) -> None:
    with client(alone) as sock:
        ask(sock)
        stopped = alone.processes["proxy"]
        stopped.send_signal(signal.SIGTERM)
        eventually(lambda: alone.state(stopped) == "stopping", WAIT_S, "it stops")
        assert b"Connection: close" in ask(sock)
        assert sock.recv(1) == b""
    assert left(stopped) == 0


def test_what_is_not_over_at_the_retire_timeout_is_cut_and_the_end_says_shutdown(backend: str, tmp_path: Path) -> None:
    """And a first proxy that is to take over where nobody runs starts as usual."""
    with Pipeline(tmp_path / "pipeline", upstream=backend, retire_timeout_s=0.5, takeover="true") as pipe:
        endless = Reading(pipe.proxy + ENDLESS)
        assert endless.begun.wait(WAIT_S)
        before = pipe.take_over()
        assert left(before, 0.5 + LEFT_WITHIN_S) == 0
        endless.join(WAIT_S)
        (row,) = pipe.ended(1)
        assert (endless.whole, row["end_reason"], row["resp_bytes"]) == (False, "shutdown", len(endless.got))
        assert pipe.llmdump("verify").returncode == 0


def test_sigterm_ends_a_retiring_proxy_in_time_and_the_new_one_serves_on(alone: Pipeline) -> None:
    endless = Reading(alone.proxy + ENDLESS)
    assert endless.begun.wait(WAIT_S)
    before = alone.take_over()
    before.send_signal(signal.SIGTERM)
    assert left(before) == 0
    endless.join(WAIT_S)
    assert not endless.whole
    with client(alone) as new:
        ask(new)


def test_two_new_proxies_at_once_take_over_one_after_the_other(alone: Pipeline) -> None:
    alone.environ["LLMDUMP_TAKEOVER"] = "true"
    before = alone.processes.pop("proxy")
    new = [alone.processes.pop(alone.also("proxy")) for _ in range(2)]
    assert before.wait(WAIT_S) == 0
    eventually(
        lambda: 0 in [process.poll() for process in new], WAIT_S, f"the first is taken over by the second\n{alone.log()}"
    )
    (alone.processes["proxy"],) = [process for process in new if process.poll() is None]
    alone.wait_until_runs("proxy")
    with client(alone) as sock:
        ask(sock)


def test_a_successor_that_dies_before_it_serves_changes_nothing(alone: Pipeline) -> None:
    running = alone.processes["proxy"]
    (card,) = presence.living(alone.data.run, "proxy")
    for _ in range(3):
        with handed_over(alone, card.slot):
            pass
    with client(alone) as sock:
        assert b"Connection: close" not in ask(sock)
    assert alone.state(running) == "running"
    assert alone.take_over().wait(WAIT_S) == 0


def test_a_successor_is_given_the_very_socket_so_that_who_connects_meanwhile_waits_for_it(alone: Pipeline) -> None:
    (card,) = presence.living(alone.data.run, "proxy")
    with handed_over(alone, card.slot) as (listening, connection):
        connection.sendall(SERVING)
        assert alone.processes["proxy"].wait(WAIT_S) == 0, "it retires, and there is nobody to wait for"
        with client(alone) as waiting:
            accepted, peer = listening.accept()
            accepted.close()
            assert peer == waiting.getsockname()


@contextlib.contextmanager
def handed_over(pipe: Pipeline, slot: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """What a successor gets: the listening socket; and the connection on which to say that it serves."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(os.fspath(pipe.data.handover_socket(slot)))
        said, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
        assert said == HELLO
        with socket.socket(fileno=descriptors[0]) as listening:
            listening.settimeout(WAIT_S)
            yield listening, connection


def test_sigterm_for_a_proxy_that_has_retired_and_is_about_to_leave_is_its_first(alone: Pipeline) -> None:
    """Without a writer it tries to hand its records over for a while; a second SIGTERM would end it at once, with code 1."""
    alone.stop("writer")
    retired = alone.processes["proxy"]
    retired.send_signal(signal.SIGQUIT)
    eventually(lambda: alone.state(retired) == "stopping", WAIT_S, "it is about to leave")
    retired.send_signal(signal.SIGTERM)
    assert left(retired) == 0
    assert alone.state(retired) == ""


def test_a_proxy_that_does_not_hand_over_is_named_and_serves_on(alone: Pipeline) -> None:
    (card,) = presence.living(alone.data.run, "proxy")
    alone.data.handover_socket(card.slot).unlink()
    command = [str(BIN / "llmdump-proxy"), "--takeover"]
    done = subprocess.run(
        command, cwd=alone.place, env=alone.environ, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 1
    assert f"proxy-0 (pid {card.pid}) does not hand over {card.listen}: No such file or directory" in done.stderr
    assert "stop it, or start without --takeover" in done.stderr
    with client(alone) as sock:
        ask(sock)
