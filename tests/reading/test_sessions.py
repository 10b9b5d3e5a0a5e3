"""Sessions: each exchange finds the one that it goes on from, as agents really send their histories."""

import base64
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmdump.reading.canonical import decode
from llmdump.reading.hints import Hints, hints_of
from llmdump.reading.sessions import RETRY_US, Conversation, Found, Place, answer_keys, conversation, place, prompt_new

CORPUS = Path(__file__).parents[3] / "shared/corpus/exchanges.jsonl"
SECOND_US = 1_000_000
EPHEMERAL = {"type": "ephemeral"}


class Archive:
    """What an index does, for one API key: keeps keys, looks candidates up, places what comes."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Place, int, str | None]] = {}
        self.by_key: dict[str, list[str]] = {}
        self.now_us = 0

    def add(
        self,
        name: str,
        document: Any,
        *,
        api: str = "anthropic.messages",
        fields: Any = (),
        answer_id: str = "",
        calls: Any = (),
        after_us: int = SECOND_US,
    ) -> Place:
        """Places the exchange and keeps it."""
        self.now_us += after_us
        asked = self.read(document, api, fields)
        where = place(asked, self.found(asked), self.now_us)
        self.rows[name] = (where, self.now_us, asked.session)
        for key in (*asked.keys, *answer_keys(answer_id, calls)):
            self.by_key.setdefault(key, []).append(name)
        self.text = prompt_new(asked, where)
        return where

    def read(self, document: Any, api: str, fields: Any) -> Conversation:
        decoded = decode(json.dumps(document).encode())
        return conversation(api, decoded, hints_of(list(fields), decoded))

    def found(self, asked: Conversation) -> list[Found]:
        names = [(key, name) for key, _, _ in asked.candidates for name in self.by_key.get(key, ())]
        return [
            Found(key, name, where.parent, where.root or name, where.depth, at_us, session)
            for key, name in names
            for where, at_us, session in [self.rows[name]]
        ]


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def agent(*messages: dict[str, Any], system: str = "You are an agent.") -> dict[str, Any]:
    return {"system": system, "messages": list(messages)}


@pytest.mark.parametrize(
    ("api", "document", "prefix_hash", "prefix_len"),
    [
        ("openai.chat", {"messages": [{"role": "user", "content": "hi"}]}, "4e79873118cd9be7", 1),
        ("openai.chat", {"messages": [{"content": "hi", "role": "user"}, {"role": "assistant", "content": "ok"},
                                      {"role": "user", "content": "more"}]}, "8012f01e608ea60f", 3),
        ("anthropic.messages", agent({"role": "user", "content": "hi"}, system="you are a pirate"), "24c51854562feb38", 2),
        ("anthropic.messages", agent({"role": "user", "content": "hi"}, system="you are a doctor"), "7c079674c4c32aa7", 2),
        ("openai.responses", {"instructions": "be helpful", "input": "what is rust"}, "90f86f32b11b756e", 2),
        ("openai.chat", {"messages": [{"role": "user", "content": "a<b & c>d 你好"}]}, "6558f02aa9e9fbc3", 1),
        ("openai.embeddings", {"input": "x"}, None, None),
    ],
)  # fmt: skip
def test_hashes_are_those_of_api_log(api: str, document: Any, prefix_hash: str | None, prefix_len: int | None) -> None:
    asked = Archive().read(document, api, ())
    assert (asked.prefix_hash, asked.prefix_len) == (prefix_hash, prefix_len)
    assert asked.keys[:1] == ((prefix_hash,) if prefix_hash else ())


def test_items_of_responses_are_turns_of_their_own() -> None:
    items = [{"type": "function_call", "name": "do_stuff"}, {"type": "message", "role": "user", "content": "hi"}]
    asked = Archive().read({"input": items}, "openai.responses", ())
    # One opaque turn for api-log (65ff36d702ea06e1), which makes a root of every step of a tool loop.
    assert (asked.prefix_len, asked.prefix_hash == "65ff36d702ea06e1") == (2, False)


def test_a_history_that_goes_on_is_a_chain() -> None:
    archive = Archive()
    assert archive.add("1", agent(user("a"))) == Place()
    assert archive.text == "You are an agent.\na"
    assert archive.add("2", agent(user("a"), assistant("b"), user("c"))) == Place("1", "1", 1, "prefix", 2)
    assert archive.text == "c"
    longer = agent(user("a"), assistant("b"), user("c"), assistant("d"), user("e"))
    assert archive.add("3", longer) == Place("2", "1", 2, "prefix", 4)
    assert archive.text == "e"


def test_other_system_texts_are_other_sessions() -> None:
    archive = Archive()
    archive.add("1", agent(user("hi"), system="you are a pirate"))
    assert archive.add("2", agent(user("hi"), system="you are a doctor")) == Place()
    assert archive.add("3", agent(user("hi"), assistant("b"), user("c"), system="you are a doctor")).parent == "2"


def test_two_children_of_one_parent_are_a_fork() -> None:
    archive = Archive()
    archive.add("1", agent(user("a")))
    archive.add("2", agent(user("a"), assistant("b"), user("c")))
    assert archive.add("3", agent(user("a"), assistant("b"), user("other"))) == Place("1", "1", 1, "prefix", 2)


def test_cache_marks_that_move_do_not_break_the_chain() -> None:
    archive = Archive()
    first = agent(user("a", cache_control=EPHEMERAL))
    first["system"] = [{"type": "text", "text": "S", "cache_control": EPHEMERAL}]
    archive.add("1", first)
    second = agent({"role": "user", "content": "a"}, assistant("b"), user("c", cache_control=EPHEMERAL), system="S")
    assert archive.add("2", second) == Place("1", "1", 1, "prefix", 2)
    marked_twice = agent(user("a", cache_control=EPHEMERAL), assistant("b"), user("c"), assistant("d"), user("e"), system="S")
    assert archive.add("3", marked_twice).parent == "2"


def test_a_date_in_the_system_text_does_not_break_the_chain() -> None:
    archive = Archive()
    archive.add("1", agent(user("a"), system="Today is Friday, 2026-11-20, build cch=ab12f."))
    turned = agent(user("a"), assistant("b"), user("c"), system="Today is Saturday, 2026-11-21, build cch=c93d1.")
    assert archive.add("2", turned) == Place("1", "1", 1, "masked_prefix", 2)


def test_numbers_in_what_users_say_do_tell_sessions_apart() -> None:
    archive = Archive()
    archive.add("1", agent(user("what is 2 + 2?")))
    assert archive.add("2", agent(user("what is 2 + 3?"), assistant("5"), user("thanks"))) == Place()


def test_reminders_and_thoughts_that_come_and_go_do_not_break_the_chain() -> None:
    archive = Archive()
    reminder = {"type": "text", "text": "<system-reminder>todo: nothing</system-reminder>"}
    archive.add("1", agent({"role": "user", "content": [reminder, {"type": "text", "text": "a"}]}))
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    with_thought = {"role": "assistant", "content": [thought, {"type": "text", "text": "b"}]}
    assert archive.add("2", agent(user("a"), with_thought, user("c"))) == Place("1", "1", 1, "masked_prefix", 2)
    without = agent(user("a"), assistant("b"), user("c"), assistant("d"), user("e <system-reminder>x</system-reminder>"))
    assert archive.add("3", without) == Place("2", "1", 2, "masked_prefix", 4)


def test_a_response_id_is_followed() -> None:
    archive = Archive()
    archive.add("1", {"instructions": "S", "input": "a"}, api="openai.responses", answer_id="resp_1")
    went_on = {"instructions": "S", "input": "b", "previous_response_id": "resp_1"}
    assert archive.add("2", went_on, api="openai.responses", answer_id="resp_2") == Place("1", "1", 1, "response_id", 0)
    assert archive.text == "b"
    unknown = {"input": "c", "previous_response_id": "resp_of_yesterday"}
    assert archive.add("3", unknown, api="openai.responses") == Place()


def test_a_tool_loop_of_responses_is_a_chain() -> None:
    archive = Archive()
    items: list[dict[str, Any]] = [{"role": "user", "content": "weather?"}]
    archive.add("1", {"input": copy.deepcopy(items)}, api="openai.responses")
    items += [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "w", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "40 C"},
    ]
    assert archive.add("2", {"input": items}, api="openai.responses") == Place("1", "1", 1, "prefix", 1)
    assert archive.text == "40 C"
    dropped = [item for item in items if item.get("type") != "reasoning"]
    longer = [*dropped, {"type": "message", "role": "assistant", "content": "40"}, {"role": "user", "content": "and now?"}]
    assert archive.add("3", {"input": longer}, api="openai.responses") == Place("2", "1", 2, "masked_prefix", 3)


def test_a_first_question_again_is_a_retry_beside_it() -> None:
    archive = Archive()
    archive.add("1", agent(user("a")))
    assert archive.add("2", agent(user("a"))) == Place(None, "1", 0, "same", 2)
    assert archive.add("3", agent(user("a"), assistant("b"), user("c"))) == Place("2", "1", 1, "prefix", 2)
    assert archive.add("4", agent(user("a"), assistant("b"), user("c"))).parent == "2"


def test_a_first_question_again_much_later_is_a_session_of_its_own() -> None:
    archive = Archive()
    archive.add("1", agent(user("ping")))
    assert archive.add("2", agent(user("ping")), after_us=RETRY_US + 1) == Place()


def test_a_history_again_belongs_to_its_session_however_late() -> None:
    archive = Archive()
    history = agent(user("a"), assistant("b"), user("c"))
    archive.add("1", history)
    assert archive.add("2", history, after_us=100 * RETRY_US) == Place(None, "1", 0, "same", 4)


def test_a_sub_agent_hangs_below_the_call_that_started_it() -> None:
    archive = Archive()
    task = "Find every place where the configuration is read."
    call = {"name": "Task", "id": "t", "arguments": json.dumps({"description": "find", "prompt": task})}
    archive.add("1", agent(user("tidy up")), calls=[call])
    reminded = {
        "role": "user",
        "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}, user(task)["content"][0]],
    }
    sub = agent(reminded, system="You search.")
    assert archive.add("2", sub) == Place("1", "1", 1, "task", 0)
    went_on = agent(*sub["messages"], assistant("found"), user("more"), system="You search.")
    assert archive.add("3", went_on) == Place("2", "1", 2, "prefix", 2)
    assert archive.add("4", agent(user("tidy up"), assistant("done"), user("thanks"))).parent == "1"


def test_a_session_named_in_a_header_wins() -> None:
    archive = Archive()
    one, two = [("X-Session-Id", "one")], [("X-Session-Id", "two")]
    archive.add("1", agent(user("a")), fields=one)
    went_on = agent(user("a"), assistant("b"), user("c"))
    assert archive.add("2", went_on, fields=two) == Place()
    assert archive.add("3", went_on, fields=one) == Place("1", "1", 1, "prefix", 2)
    assert archive.add("4", agent(user("a title, please"), system="T"), fields=one) == Place(None, "1", 0, "session")
    assert archive.add("5", agent(user("a title"), system="T"), fields=two).root == "2"


@pytest.mark.parametrize(
    ("api", "first", "answer", "more"),
    [
        ("gemini.stream", {"role": "user", "parts": [{"text": "a"}]},
         {"role": "model", "parts": [{"text": "b", "thoughtSignature": "x"}]}, {"role": "user", "parts": [{"text": "c"}]}),
        ("ollama.chat", {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "x"},
         {"role": "user", "content": "c"}),
        ("bedrock.converse", {"role": "user", "content": [{"text": "a"}]}, {"role": "assistant", "content": [{"text": "b"}]},
         {"role": "user", "content": [{"text": "c"}]}),
    ],
)  # fmt: skip
def test_histories_of_other_apis(api: str, first: Any, answer: Any, more: Any) -> None:
    key = "contents" if api.startswith("gemini") else "messages"
    archive = Archive()
    archive.add("1", {key: [first]}, api=api)
    assert archive.add("2", {key: [first, answer, more]}, api=api) == Place("1", "1", 1, "prefix", 1)
    assert archive.text == "c"


def test_only_what_came_before_can_be_a_parent() -> None:
    asked = Archive().read(agent(user("a"), assistant("b"), user("c")), "anthropic.messages", ())
    key = asked.candidates[-4].key
    later = Found(key, "later", None, "later", 0, 50)
    assert place(asked, [later], 50) == Place()
    assert place(asked, [later], 51).parent == "later"


def test_of_equal_histories_the_latest_is_the_parent_and_the_longest_before_it() -> None:
    archive = Archive()
    archive.add("1", agent(user("a"), assistant("b"), user("c")))
    archive.add("2", agent(user("a")))
    archive.add("3", agent(user("a")))
    assert archive.add("4", agent(user("a"), assistant("b"), user("c"), assistant("d"), user("e"))).parent == "1"
    assert archive.add("5", agent(user("a"), assistant("x"), user("y"))).parent == "3"


def test_a_long_history_finds_near_and_far_parents_and_is_quick() -> None:
    messages = [user(f"question {at} <b>" * 130) if at % 2 == 0 else assistant(f"answer {at} " * 190) for at in range(399)]
    archive = Archive()
    archive.add("root", agent(*messages[:1]))
    archive.add("near", agent(*messages[:397]))
    asked = archive.read(agent(*messages), "anthropic.messages", ())
    assert place(asked, archive.found(asked), archive.now_us + 1).parent == "near"
    assert len(asked.candidates) < 450
    forked = archive.read(agent(*messages[:5], user("x"), *messages[5:]), "anthropic.messages", ())
    assert place(forked, archive.found(forked), archive.now_us + 1).parent == "root"

    body = json.dumps(agent(*messages)).encode()
    assert len(body) > 700_000
    spent = []
    for _ in range(5):
        begun = time.process_time()
        conversation("anthropic.messages", decode(body), Hints())
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.1  # 0.01 s where this was written


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("<system-reminder>"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "parts", "thinking", "id", "output"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "system", "input", "contents", "instructions", "previous_response_id"]), ANYTHING
    ),
    ANYTHING,
)
def test_any_document_has_a_place(document: dict[str, Any], arguments: Any) -> None:
    archive = Archive()
    archive.add(
        "1",
        document,
        api="openai.responses",
        answer_id="r",
        calls=[{"arguments": arguments}, {"arguments": json.dumps(arguments)}],
    )
    again = archive.add("2", document, api="openai.responses")
    assert again == Place() or again.root == "1"


def test_reminders_without_end_cost_no_more_than_their_length() -> None:
    begun = time.process_time()
    Archive().read(agent(user("<system-reminder>" * 60_000)), "anthropic.messages", ())
    Archive().read(agent(user("x"), system="abcdef" * 200_000), "anthropic.messages", ())
    assert time.process_time() - begun < 5


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not beside the checkout")
def test_every_recorded_exchange_finds_its_parent() -> None:
    archives: dict[str, Archive] = {}
    for line in CORPUS.read_bytes().splitlines():
        exchange = json.loads(line)
        expected = exchange["expected"]
        archive = archives.setdefault(exchange["cassette"], Archive())
        document = decode(base64.b64decode(exchange["request"]["body_b64"]))
        archive.now_us += SECOND_US
        asked = conversation(
            exchange["api"], document, hints_of([tuple(field) for field in exchange["request"]["headers"]], document)
        )
        where = place(asked, archive.found(asked), archive.now_us)
        parent = None if expected["parent_seq"] is None else str(expected["parent_seq"])
        assert where.parent == parent, exchange["id"]
        assert parent is None or (where.by == "response_id") == (expected["parent_by"] == "previous_response_id")
        archive.rows[str(exchange["seq"])] = (where, archive.now_us, asked.session)
        for key in (*asked.keys, *answer_keys(expected["response_id"], ())):
            archive.by_key.setdefault(key, []).append(str(exchange["seq"]))
