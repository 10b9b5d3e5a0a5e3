"""What the page answers: a table a question, each from the same results."""

from collections.abc import Sequence
from typing import NamedTuple

from bench import cells, goals, table
from bench.arms.every import ARMS
from bench.results import Results

NAMES = [arm.name for arm in ARMS]
RECORDING = [cells.CBOR, cells.JSONL, cells.TWO]


class Question(NamedTuple):
    """Title, what must be known to read the table, its lines."""

    title: str
    about: str
    lines: list[str]


def all_of(results: Results, cores: int) -> list[Question]:
    """Those of which something was measured."""
    names = [cell for cell, _ in results.names()]
    every = list(dict.fromkeys(names))
    plain = [name for name in every if name.startswith("plain")]
    rates = [name for name in plain if "/s" in name]
    streams = [name for name in every if "streams" in name]
    found = [
        Question("Figures to reach", GOALS, goals.lines(results, cores)),
        Question("How many requests a second?", SATURATION, table.by_cell(results, "units_per_s", plain, NAMES)),
        Question("What does a request cost the proxy?", CPU, table.by_cell(results, "forwarding_us", plain, NAMES)),
        Question("What does an event cost the proxy?", EVENT_CPU, table.by_cell(results, "forwarding_us", streams, NAMES)),
        Question("What does all of it cost?", PIPELINE, table.by_cell(results, "pipeline_us", every, RECORDING)),
        *(_latency(results, cell) for cell in rates),
        *(_streams(results, cell) for cell in streams),
        Question("How much memory?", MEMORY, table.by_cell(results, "peak_mb", every, NAMES)),
        Question("How much disk?", DISK, _disk(results, every)),
        Question("How busy was the machine?", BUSY, table.by_cell(results, "busy_percent", every, NAMES)),
        Question("Is anything lost?", LEDGER, ledger(results)),
        *_alone(results),
    ]
    return [question for question in found if len(question.lines) > 2]


GOALS = "Medians of the rounds (least–most). A ratio or difference is taken within each round. “Recording” is `llmdump cbor`."
SATURATION = "wrk with as many connections; all processes share the machine's cores, backend, load and recording included."
CPU = "User and system time of the forwarding processes, µs a request. mitmdump and claude-tap record in the same process."
EVENT_CPU = "µs an event of the streams; what the requests cost is spread over them."
PIPELINE = "User and system time of all processes of llmdump until the last record is in the index, µs a request or event."
MEMORY = "The most that was resident in one forwarding process, MB."
DISK = "Bytes that are kept for each byte that crossed, heads and bodies of both directions: just after the run, and sealed."
BUSY = "Of all cores, while the load ran, %. Near 100 the arm waits for a core, and times tell of the machine."
LEDGER = (
    "After each recording run `llmdump verify` compares what the proxies numbered, what is in the files and what is in the "
    "index, and the clients' count of whole exchanges with that of the index. A run that lost a record is void and in no other "
    "table."
)


def _latency(results: Results, cell: str) -> Question:
    columns = (("p50 ms", "latency_p50_ms"), ("p99 ms", "latency_p99_ms"))
    about = "Open loop: a latency counts from when the request was due."
    return Question(f"How much later does an answer come? {cell}", about, with_added(results, cell, columns))


def _streams(results: Results, cell: str) -> Question:
    columns = (
        ("first event p50 ms", "first_p50_ms"),
        ("p99 ms", "first_p99_ms"),
        ("skew p50 ms", "skew_p50_ms"),
        ("skew p99 ms", "skew_p99_ms"),
        ("closer p99 ms", "closer_p99_ms"),
    )
    about = (
        "From when the request was due to the first event; how much the gap between two events differs from that with which "
        "they were sent (skew), and by how much the closest are nearer (events that were held and sent together)."
    )
    return Question(f"How much later do events come? {cell}", about, with_added(results, cell, columns))


def with_added(results: Results, cell: str, columns: Sequence[tuple[str, str]]) -> list[str]:
    """A row an arm; behind each figure what it adds to that of `direct`."""
    rows = []
    for arm in NAMES:
        if results.spread(cell, arm, columns[0][1]):
            each = [
                (table.field(results, cell, arm, name), table.told(goals.added(results, cell, arm, name)))
                for _, name in columns
            ]
            rows.append([arm, *(text for pair in each for text in pair)])
    return table.markdown(["", *(text for title, _ in columns for text in (title, "added"))], rows)


def _disk(results: Results, every: Sequence[str]) -> list[str]:
    rows = []
    for cell, arm in results.names():
        if results.spread(cell, arm, "kept_per_byte"):
            rows.append([cell, arm, *(table.field(results, cell, arm, name) for name in ("kept_per_byte", "sealed_per_byte"))])
    return table.markdown(["", "arm", "live", "sealed"], rows)


def ledger(results: Results) -> list[str]:
    """A row for each arm that was audited in a cell, and for each that is void for another reason."""
    rows = []
    for cell, arm in results.names():
        runs = [run for run in results.runs if (run.cell, run.arm) == (cell, arm)]
        if all(not run.void and "made" not in run.figures for run in runs):
            continue
        sums = [f"{sum(run.figures.get(name, 0) for run in runs):,.0f}" for name in ("exchanges", "made", "stored", "indexed")]
        why = "; ".join(dict.fromkeys(run.void.splitlines()[0][:120] for run in runs if run.void))
        rows.append(
            [cell, arm, str(len(runs)), *sums, f"{sum(bool(run.void) for run in runs)} void: {why}" if why else "whole"]
        )
    return table.markdown(["", "arm", "runs", "exchanges", "records made", "stored", "indexed", ""], rows)


def _alone(results: Results) -> list[Question]:
    """What is measured of one part by itself: a column a figure."""
    found = []
    for cell, title, about, columns in ALONE:
        arms = list(dict.fromkeys(arm for name, arm in results.names() if name == cell))
        found.append(Question(title, about, table.by_arm(results, cell, arms, columns)))
    return found


ALONE = (
    (
        cells.WRITER,
        "How fast is the writer?",
        "`bench/writer_rate.py`: chunks of 300 bytes, appended, synced, acknowledged; what one core could do, from CPU time.",
        (("chunks/s", "chunks_per_s"), ("MB/s", "mb_per_s"), ("chunks/s of CPU", "chunks_per_cpu_s")),
    ),
    (
        cells.INDEXER,
        "How fast is the indexer?",
        "`bench/index_rate.py`: one core, bodies read and all, its own CPU time.",
        (("exchanges/s", "exchanges_per_s"), ("records/s", "records_per_s"), ("index, bytes/exchange", "index_bytes")),
    ),
    (
        cells.AGENTS,
        "How small are agents' sessions, and how quickly is one turn read?",
        "`bench/agents.py`: interleaved sessions of 100 turns, each of which sends the whole history, through proxy and "
        "writer; then exchanges at random from the sealed segments, through a fresh api.",
        (
            ("raw MB", "raw_mb"),
            ("sealed, of raw %", "sealed_percent"),
            ("read p50 ms", "read_p50_ms"),
            ("p99 ms", "read_p99_ms"),
            ("max ms", "read_max_ms"),
        ),
    ),
    (
        cells.BEHIND,
        "How soon is an exchange in the api?",
        "`bench/behind.py`: from the answer's last byte at the client to the row in `/api/traces`, default flush interval.",
        (("p50 ms", "behind_p50_ms"), ("p99 ms", "behind_p99_ms"), ("max ms", "behind_max_ms")),
    ),
)
