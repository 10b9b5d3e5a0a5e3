"""The forms that there are: name, suffix of a file, media type, and what makes the bytes."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from llmdump_api.export import finetune, four_legs, parquet, spans, texts, zipped
from llmdump_api.export.selection import Selection


class Form(NamedTuple):
    """One of them."""

    suffix: str
    media_type: str
    stream: Callable[[Selection], Iterator[bytes]]


FORMS: Final = {
    "jsonl": Form("jsonl", "application/x-ndjson", texts.traces),
    "wire-jsonl": Form("jsonl", "application/x-ndjson", texts.wire),
    "cbor": Form("cbor", "application/cbor-seq", four_legs.stream),
    "har": Form("har", "application/json", texts.har_log),
    "openai-finetune": Form("jsonl", "application/x-ndjson", finetune.openai),
    "anthropic-finetune": Form("jsonl", "application/x-ndjson", finetune.anthropic),
    "parquet": Form("parquet", "application/vnd.apache.parquet", parquet.stream),
    "otlp": Form("jsonl", "application/x-ndjson", spans.stream),
    "zip": Form("zip", "application/zip", zipped.stream),
}

BATCH_BYTES: Final = 256 * 1024


def batches(pieces: Iterator[bytes], size_bytes: int = BATCH_BYTES) -> Iterator[bytes]:
    """The same bytes in pieces of at least this size, but for the last."""
    batch = bytearray()
    for piece in pieces:
        batch += piece
        if len(batch) >= size_bytes:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)
