"""The state of a fold: what was understood of an answer so far. The dialects write it, the reader reads it out.

Everything has a bound, whatever the events say: texts are held up to a limit, calls and choices are counted up to one.
"""

from typing import Any, Final

from llmdump.reading.failures import Failure
from llmdump.reading.speed import Speed
from llmdump.reading.text import Text
from llmdump.reading.times import Times
from llmdump.reading.typed import clean, encoded, text
from llmdump.reading.usage import Usage

CALLS_MAX: Final = 1024
"""Tool calls of one answer that are kept."""
ARGUMENTS_CHARS_MAX: Final = 1 << 20
"""What is held of one call's arguments; of all calls together four times this."""
PIECES_MAX: Final = 512
"""So many pieces are joined at a time."""
CHOICES_MAX: Final = 4096
NAME_CHARS_MAX: Final = 512
"""Names, ids and reasons longer than this are cut."""


class Call:
    """A tool call being collected."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self._pieces: list[str] = []
        self._joined: list[str] = []

    def argue(self, piece: str) -> None:
        """Takes a piece of the arguments."""
        self._pieces.append(piece)
        if len(self._pieces) >= PIECES_MAX:
            self._joined.append("".join(self._pieces))
            self._pieces = []

    def argue_anew(self) -> None:
        """Forgets the arguments so far."""
        self._pieces, self._joined = [], []

    def told(self) -> dict[str, str | None]:
        """Name, id and arguments, these as they were sent: JSON, if the model kept to it."""
        return {"name": self.name, "id": self.id, "arguments": clean("".join(self._joined + self._pieces), ARGUMENTS_CHARS_MAX)}


class Answer:
    """What was understood so far."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.id: str | None = None
        self.renamed = False
        """A later id replaces the first one. (Gateways that pass on chunks of chat change ids in the middle.)"""
        self.finish: str | int | None = None
        """The provider's word for why it ended."""
        self.detail: str | None = None
        """A nearer word for it, where there is one."""
        self.text: Text | None = None
        """None until something was there that could have had text in it."""
        self.reasoning = Text()
        self.refusal = Text(NAME_CHARS_MAX * 8)
        self.calls: list[Call] = []
        self.builtins: list[str] = []
        self.choices: set[int] | None = None
        self.usage = Usage()
        self.speed = Speed()
        self.times = Times()
        self.counted: int | None = None
        self.failure: Failure | None = None
        self.blocked: str | None = None
        """Why nothing was said at all, where a filter says so."""
        self.done = False
        """The API's own end was seen."""
        self.generated = False
        """The event at hand had something generated in it."""
        self._open: dict[Any, Call] = {}
        self._arguments_left = 4 * ARGUMENTS_CHARS_MAX

    def named(self, model: Any, identity: Any) -> None:
        """A model and an id, if these are any. Empty ones (Azure's first chunk) say nothing."""
        if isinstance(model, str) and model:
            self.model = clean(model, NAME_CHARS_MAX)
        if isinstance(identity, str) and identity and (self.id is None or self.renamed):
            self.id = clean(identity, NAME_CHARS_MAX)

    def ended(self, reason: Any, detail: Any = None) -> None:
        """Why it ended, if this is a reason; a number where enums were asked for as numbers."""
        if isinstance(reason, str) and reason:
            self.finish, self.detail = clean(reason, NAME_CHARS_MAX), clean(text(detail) or "", NAME_CHARS_MAX) or None
        elif isinstance(reason, int) and not isinstance(reason, bool) and 0 < reason < 1 << 31:
            self.finish = reason

    def say(self, piece: Any) -> None:
        """Visible text; an empty one shows that this is where text would be."""
        if self.text is None:
            self.text = Text()
        if isinstance(piece, str) and piece:
            self.text.add(piece)
            self.generated = True

    def think(self, piece: Any) -> None:
        """Reasoning that is shown."""
        if isinstance(piece, str) and piece:
            self.reasoning.add(piece)
            self.generated = True

    def refuse(self, piece: Any) -> None:
        """A refusal in words."""
        if isinstance(piece, str) and piece:
            self.refusal.add(piece)
            self.generated = True

    def chose(self, index: int) -> None:
        """There is a choice of this index."""
        if self.choices is None:
            self.choices = set()
        if len(self.choices) < CHOICES_MAX:
            self.choices.add(index)

    def call(self, key: Any, name: Any = None, identity: Any = None, arguments: Any = None) -> None:
        """A tool call or a piece of one; pieces of one call have the same key."""
        call = self._open.get(key)
        if call is None or (text(identity) and call.id and identity != call.id and text(name)):
            call = self._open[key] = Call()
            if len(self.calls) < CALLS_MAX:
                self.calls.append(call)
            if len(self._open) > CALLS_MAX:
                self._open = {key: call}
        if not call.name:
            call.name = clean(text(name) or "", NAME_CHARS_MAX) or None
        if not call.id:
            call.id = clean(text(identity) or "", NAME_CHARS_MAX) or None
        self._argue(call, arguments)

    def called(self, name: Any, identity: Any = None, arguments: Any = None) -> None:
        """A tool call that is there as a whole."""
        self.call(object(), name, identity, arguments)
        self.generated = True

    def argue(self, key: Any, piece: Any) -> None:
        """A piece of the arguments of a call that began before; of others (a built-in tool's) it is only a token."""
        call = self._open.get(key)
        if call is not None:
            self._argue(call, piece)
        elif isinstance(piece, str) and piece:
            self.generated = True

    def forget_calls(self) -> None:
        """Keys of calls begin anew."""
        self._open = {}

    def argued(self, key: Any, whole: Any) -> None:
        """The arguments of a call as a whole, in place of its pieces."""
        call = self._open.get(key)
        if call is not None and isinstance(whole, str) and whole:
            call.argue_anew()
            self._argue(call, whole)

    def built_in(self, name: Any) -> None:
        """A call of a tool that the service runs itself."""
        if isinstance(name, str) and name and len(self.builtins) < CALLS_MAX:
            self.builtins.append(clean(name, NAME_CHARS_MAX))

    def _argue(self, call: Call, arguments: Any) -> None:
        if arguments is None or arguments == "":
            return
        if not isinstance(arguments, str):
            arguments = encoded(arguments)
        self.generated = True
        piece = arguments[: max(self._arguments_left, 0)]
        self._arguments_left -= len(piece)
        if piece:
            call.argue(piece)
