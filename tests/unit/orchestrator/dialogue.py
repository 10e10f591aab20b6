"""A dialogue with the offline model over a few lines of memory, in the formats of the real prompt and executor."""

from __future__ import annotations

from collections.abc import Callable

from mneme.orchestrator.models.offline import OfflineModel
from mneme.orchestrator.models.offline.words import terms
from mneme.orchestrator.models.port import ModelRequest, SystemPart, ToolOutcome, Turn, complete
from mneme.orchestrator.prompt import user_text
from mneme.orchestrator.tools import TOOLS, ParsedCall, parse_call
from tests.unit.orchestrator.clock import NOON

MAX_STEPS = 8


class Dialogue:
    """One agent with one user."""

    def __init__(self, model: OfflineModel, *, limit: int = 2_000, read_only: bool = False) -> None:
        self.model = model
        self.limit = limit
        self.read_only = read_only
        self.human = ""
        self.archive: list[str] = []
        self.said: list[str] = []
        self.turns: list[Turn] = []
        self.called: list[str] = []
        self.broken: set[str] = set()
        """Tools that fail."""

    def new_window(self) -> None:
        """Forgets the window, as a new conversation does."""
        self.turns = []

    @property
    def request(self) -> ModelRequest:
        """The prompt of the next step."""
        flag = "true" if self.read_only else "false"
        memory = (
            "<memory_blocks>\n"
            '<block label="persona" chars="18" limit="2000" read_only="true">\nI am an assistant.\n</block>\n'
            f'<block label="human" chars="{len(self.human)}" limit="{self.limit}" read_only="{flag}" description="">\n'
            f"{self.human}\n</block>\n</memory_blocks>"
        )
        system = (SystemPart("You have a memory.", cache_point=True), SystemPart(memory))
        return ModelRequest("offline", system, tuple(self.turns), tuple(TOOLS.values()))

    async def say(self, text: str) -> str:
        """The answer to a message; empty when none was sent."""
        self.said.append(text)
        return await self.on(Turn("user", user_text(text, NOON)))

    async def on(self, turn: Turn) -> str:
        """Runs the loop on a turn until the model waits; what it told the user."""
        self.turns.append(turn)
        told = ""
        for _ in range(MAX_STEPS):
            output = await complete(self.model, self.request)
            self.turns.append(output.as_turn())
            outcomes, again = [], False
            for use in output.tool_calls:
                call = parse_call(use.name, use.arguments_json)
                assert isinstance(call, ParsedCall), call
                ok, content = self._run(call)
                outcomes.append(ToolOutcome(use.id, ok, content))
                again = again or call.heartbeat or not ok
                told = call.arguments["message"] if call.name == "send_message" and ok else told
            if outcomes:
                self.turns.append(Turn("tool", outcomes=tuple(outcomes)))
            if not again:
                return told
        raise AssertionError(f"no end after {MAX_STEPS} steps: {self.called}")

    def _run(self, call: ParsedCall) -> tuple[bool, str]:
        self.called.append(call.name)
        if call.name in self.broken:
            return False, "Failed: the service does not answer at the moment."
        tools: dict[str, Callable[..., tuple[bool, str]]] = {
            "core_memory_append": self._append,
            "core_memory_replace": self._replace,
            "core_memory_remove": lambda label, content: self._replace(label, content, ""),
            "conversation_search": lambda query, **_: self._search(self.said[:-1], query, "2026-01-02 10:03 user"),
            "conversation_search_date": self._on_days,
            "archival_memory_search": lambda query, **_: self._search(self.archive, query, "passage-1, 2026-01-02"),
            "archival_memory_insert": self._insert,
            "get_current_time": lambda: (True, "Sunday 2026-11-22 10:00:00 UTC"),
            "send_message": lambda **_: (True, "Sent."),
        }
        return tools[call.name](**call.arguments)

    def _append(self, label: str, content: str) -> tuple[bool, str]:
        text = f"{self.human}\n{content}".strip()
        if len(text) > self.limit:
            return False, f"Failed: block '{label}': {len(text)} characters, its limit is {self.limit}"
        self.human = text
        return True, "OK."

    def _replace(self, label: str, old_content: str, new_content: str) -> tuple[bool, str]:
        if self.human.count(old_content) != 1:
            return False, f"Failed: block '{label}' does not contain this exactly once"
        self.human = "\n".join(filter(None, self.human.replace(old_content, new_content).splitlines()))
        return True, "OK."

    def _insert(self, content: str, tags: list[str]) -> tuple[bool, str]:
        self.archive.append(content)
        return True, "Stored as passage-1."

    def _on_days(self, start_date: str, end_date: str, time_zone: str, limit: int) -> tuple[bool, str]:
        said = self.said[:-1][:limit] if start_date <= "2026-11-21" <= end_date else []
        return True, "\n".join([f"Shown {len(said)}:", *(f"[2026-11-21 09:00 user] {text}" for text in said)])

    @staticmethod
    def _search(texts: list[str], query: str, meta: str) -> tuple[bool, str]:
        found = [text for text in texts if terms(text) & terms(query)]
        lines = [f"[{meta}] {text} (score 0.50)" for text in found]
        return True, "\n".join([f"Shown {len(found)} of {len(found)}:", *lines])
