"""An archive with many exchanges, sealed segments and one that is not, for what reads whole archives.

    python bench/archive.py DIRECTORY [--exchanges N]
    python bench/archive.py DIRECTORY --measure COMMAND …       peak memory and time of a command

Each exchange has 8 records: request, its body, what was sent on, the answer's head and three pieces of a stream, the end. One
in a hundred fails with 429, one in a hundred has an error within its stream, one in a hundred breaks off. As the proxy and the
writer make them, with the base's own encoder; the same number gives the same bytes.
"""

import argparse
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from llmdump import record, seekable, segment
from llmdump.data_dir import DataDir

SEGMENT_BYTES = 64 * 1024 * 1024
BEGAN_S = 1_767_225_600.0
INSTANCE = "00000000000000aa"
MODELS = ("gpt-4o", "gpt-5", "claude-sonnet-4-5", "gemini-2.5-pro")


class Recorder:
    """Records of one proxy instance."""

    def __init__(self) -> None:
        self.number = 0
        self.ts = BEGAN_S

    def record(self, identity: record.Identity, direction: int, kind: str, data: bytes = b"", **meta: object) -> bytes:
        """The next one, a millisecond later."""
        self.number += 1
        self.ts += 0.001
        extra, count = record.entries(meta) if meta else (b"", 0)
        return record.encode(self.ts, direction, self.number, data, identity, record.kind_entry(kind), extra, count)

    def exchange(self, index: int) -> Iterator[bytes]:
        """The records of one exchange."""
        name = str(uuid.UUID(int=(int(self.ts * 1000) << 80) | (0x7 << 76) | (0x8 << 60) << 2 | index))
        identity = record.Identity(INSTANCE, name, {"sid": f"connection-{index // 20}", "be": "openai"})
        model, what = MODELS[index % len(MODELS)], index % 100
        body = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"question %d"}]}' % (model.encode(), index)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer masked:0123456789abcdef\r\n\r\n"
        yield self.record(identity, 0, "head", head, x_peer="127.0.0.1:50000", x_key="0123456789abcdef")
        yield self.record(identity, 0, "chunk", body, ci=1, x_z=True)
        yield self.record(identity, 2, "forward", head, x_up="https://host", x_addr="1.2.3.4:443", x_dial=1.5, x_new=True)
        status = 429 if what == 1 else 200
        answer = b"HTTP/1.1 %d OK\r\nContent-Type: text/event-stream\r\n\r\n" % status
        yield self.record(identity, 3, "head", answer, sc=status, ttfb=2.0)
        for number, piece in enumerate(pieces(index, model, what), 1):
            yield self.record(identity, 3, "chunk", piece, ci=number, **({"x_z": True} if number == 3 and what != 3 else {}))
        end = "upstream_closed" if what == 3 else "complete"
        yield self.record(
            identity, 1, "end", se=True, tc=3, tb=300, x_req=len(body), x_end=end, x_err="", x_own=[9, 9, 9], x_lost=0
        )


def pieces(index: int, model: str, what: int) -> tuple[bytes, bytes, bytes]:
    """The answer's body in three reads."""
    if what == 1:
        return b'{"error":{"type":"rate_limit_error",', b'"message":"slow ', b'down"}}'
    first = b'data: {"id":"c%d","model":"%b","choices":[{"index":0,"delta":{"content":"answer %d"}}]}\n\n' % (
        index,
        model.encode(),
        index,
    )
    if what == 2:
        return first, b'data: {"error":{"type":"server_error","message":"down"}}\n\n', b"data: [DONE]\n\n"
    usage = b'"usage":{"prompt_tokens":9,"completion_tokens":3}'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],%b}\n\n' % usage
    return first, last, b"data: [DONE]\n\n"


def make(root: Path, exchanges: int) -> None:
    """The archive."""
    data, recorder, number, index = DataDir(root).create(), Recorder(), 0, 0
    while index < exchanges:
        number += 1
        content, seq = bytearray(segment.header("w0", number, recorder.ts)), 0
        while len(content) < SEGMENT_BYTES and index < exchanges:
            for one in recorder.exchange(index):
                content += one
                record.patch_seq(content, len(content) - len(one), seq)
                seq += 1
            index += 1
        path = data.segments / f"w0-{number:08d}.cbor"
        if index < exchanges:
            plain = [bytes(content[at : at + seekable.FRAME_BYTES]) for at in range(0, len(content), seekable.FRAME_BYTES)]
            frames = [seekable.compress_frame(frame) for frame in plain]
            table = seekable.seek_table([(len(frame), len(one)) for frame, one in zip(frames, plain, strict=True)])
            path.with_suffix(".cbor.zst").write_bytes(b"".join(frames) + table)
        else:
            path.write_bytes(content)
        print(f"\r{index:,} exchanges, {number} segments", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def measure(command: list[str]) -> None:
    """Run it; its peak memory and time."""
    begin_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.perf_counter() - begin_s
    told = f"{took_s:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s CPU, peak {usage.ru_maxrss / 1024:.0f} MiB"
    print(f"{' '.join(command)}: {told}, exit code {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--exchanges", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
    else:
        make(given.directory, given.exchanges)
