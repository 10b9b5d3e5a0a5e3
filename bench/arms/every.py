"""All arms, in the order of the tables. Cells choose among them by name."""

from bench.arms.arm import Arm
from bench.arms.claude_tap import ClaudeTap
from bench.arms.direct import Direct
from bench.arms.llmdump import Llmdump
from bench.arms.mitmdump import Mitmdump
from bench.arms.nginx import Nginx

ARMS: list[Arm] = [
    Direct(),
    Nginx(),
    Llmdump("llmdump, not recording", capture_rules="/*=none"),
    Llmdump("llmdump cbor", capture_format="cbor", fsync="flush"),
    Llmdump("llmdump jsonl", capture_format="jsonl", fsync="flush"),
    Llmdump("llmdump cbor, 2 proxies", proxies=2, capture_format="cbor", fsync="flush"),
    Mitmdump(),
    ClaudeTap(),
]
