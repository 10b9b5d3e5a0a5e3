"""The requests of all loads: a chat request of an exact size, words as people write them, a number that no other has."""

import random
from functools import lru_cache

PATH = "/v1/chat/completions"
DIGITS = 12
MESSAGE_BYTES_MAX = 2048
WORDS = 4000


@lru_cache(maxsize=8)
def halves(size_bytes: int) -> tuple[bytes, bytes]:
    """A body of this size less the number of DIGITS digits that belongs between the two."""
    before = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"request '
    after = b'"}]}'
    text = words(size_bytes - len(before) - len(after) - DIGITS, size_bytes)
    pieces = [text[at : at + MESSAGE_BYTES_MAX] for at in range(0, len(text), MESSAGE_BYTES_MAX)]
    joint = b'"},{"role":"user","content":"'
    text = joint.join(piece[: len(piece) - len(joint)] for piece in pieces[:-1]) + joint + pieces[-1] if pieces[1:] else text
    return before, text + after


def body(size_bytes: int, number: int) -> bytes:
    """A whole one."""
    before, after = halves(size_bytes)
    return b"%b%0*d%b" % (before, DIGITS, number, after)


def request(size_bytes: int, number: int, query: str = "") -> bytes:
    """Head and body, as a client of an API sends them."""
    head = (
        f"POST {PATH}{query} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
        f"Authorization: Bearer sk-bench-0123456789\r\nContent-Type: application/json\r\nContent-Length: {size_bytes}\r\n\r\n"
    )
    return head.encode() + body(size_bytes, number)


def words(size_bytes: int, seed: int) -> bytes:
    """Exactly so many bytes of words, rare and frequent ones; the same seed gives the same."""
    source, known = random.Random(seed), vocabulary()
    frequent = [known[int(len(known) * source.random() ** 3)] for _ in range(size_bytes // 3 + 1)]
    return (" " + " ".join(frequent)).encode()[:size_bytes].ljust(size_bytes, b".")


@lru_cache(maxsize=1)
def vocabulary() -> list[str]:
    """WORDS different ones, those of two letters among them, as English has about in everyday use."""
    source = random.Random(WORDS)
    return ["".join(source.choices("etaoinshrdlucmfwyp", k=source.randint(2, 9))) for _ in range(WORDS)]
