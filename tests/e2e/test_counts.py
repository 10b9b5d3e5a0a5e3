"""The numbers agree from one end to the other: made = sent = acknowledged = written = indexed, and none dropped."""

from pathlib import Path

import pytest

from llmdump.metrics import BY_NAME
from tests.e2e.load import Load, check_numbers
from tests.e2e.pipeline import Pipeline

pytestmark = pytest.mark.xdist_group("e2e-counts")
STAGES = ("made", "sent", "acknowledged", "written", "indexed")
NONE_OF = ("dropped", "resent", "duplicate")


def test_every_stage_counts_the_same_records(backend: str, tmp_path: Path) -> None:
    with Pipeline(tmp_path / "pipeline", upstream=backend) as pipe:
        with Load(pipe.proxy) as load:
            load.wait_for_more(40)
        load.check_all_is_stored_once(pipe)
        found = check_numbers(pipe)
        counts = {stage: found[f"llmdump_records_{stage}_total"] for stage in STAGES}
        assert set(counts.values()) == {counts["made"]}, counts
        # hello, and of each exchange at least two heads, a forward, a chunk each way and an end
        assert counts["made"] >= 1 + 6 * len(load.done)
        assert counts["made"] == max(row["last_record"] for row in pipe.rows())
        for what in NONE_OF:
            assert found[f"llmdump_records_{what}_total"] == 0
        assert found["llmdump_proxy_exchanges_total"] == found["llmdump_exchanges_indexed_total"] == len(load.done)
        assert found["llmdump_proxy_open_exchanges"] == found["llmdump_indexer_open_exchanges"] == 0
        assert found["llmdump_up"] == 4
        foreign = {name for name in found if not any(name.startswith(known) for known in BY_NAME)}
        assert foreign == set()
