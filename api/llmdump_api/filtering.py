"""The `filter` parameter as conditions of the list: what an index can serve stands alone, so that it can drive. Pure."""

from typing import Final

from llmdump import filter as filters
from llmdump.filter import Comparison, Filter, Node
from llmdump.filter_fields import within
from llmdump.filter_words import FilterError
from llmdump_api.params import BadParamError
from llmdump_api.query import COLUMNS, Condition

# Columns with an index that ends with the order of the list, and with sums; see `find`.
_INDEXED: Final = frozenset(
    {
        "route_path", "status", "model", "provider", "api", "client_kind", "client_project", "key_hash", "session_root_id",
        "end_reason", "finish_reason",
    }
)  # fmt: skip
_RANGES: Final = frozenset({"route_path", "status"})
_FIELDS: Final = within(COLUMNS)


def parse(text: str, now_ms: int) -> Filter:
    """The filter over rows of the index. Raises BadParamError."""
    try:
        return filters.parse(text, now_ms, _FIELDS)
    except FilterError as err:
        raise BadParamError("filter", str(err), offset=err.offset, pointed=err.pointed) from err


def conditions(text: str, now_ms: int) -> list[Condition]:
    """The conditions that together are the expression. Raises BadParamError."""
    root = parse(text, now_ms).root
    parts = root.parts if isinstance(root, Node) and root.word == "and" else (root,)
    return [_condition(part) for part in parts]


def _condition(part: Node | Comparison) -> Condition:
    sql, values = Filter(part).sql()
    if isinstance(part, Comparison):
        if part.how == "=" and part.column in _INDEXED and not isinstance(values[0], float):
            return Condition(sql, values, part.column, values[0])
        if part.how == "range" and part.column in _RANGES:
            return Condition(sql, values, part.column, *values)
    return Condition(sql, values, "", None)
