"""The messages of a request as one prompt with what stood before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stillwatch.data.events import InvalidEvent, Turn

TEXT_PARTS = ("text", "input_text", "output_text")
SYSTEM_ROLES = ("system", "developer")
TOOL_ROLES = ("tool", "function")


class Conversation(NamedTuple):
    """`turns` are the messages before the prompt, oldest first."""

    prompt: str
    system: str
    turns: tuple[Turn, ...]

    def fields(self) -> dict[str, Any]:
        """As `parse_event` wants them."""
        return self._asdict()


def read_messages(messages: object, system: object = None) -> Conversation:
    """The last user message as the prompt, what came before it as turns.

    `messages` is a list of messages of OpenAI's or Anthropic's APIs, or one text. `system` is a
    system prompt that stands apart. A message that only returns a tool's result is a turn of
    role tool, not the user's text; calls of tools, images and audio are left out. A request
    without a user message is asked by its system prompt, which then is the prompt, so that
    nothing escapes by leaving out the user. Raises InvalidEvent.
    """
    systems = [text] if (text := content_text(system)) else []
    if isinstance(messages, str):
        return Conversation(messages, "\n".join(systems), ())
    if not isinstance(messages, list):
        raise InvalidEvent("the messages must be a list or a string, however: neither")
    turns: list[Turn] = []
    asked = -1
    for message in messages:
        if not isinstance(message, Mapping):
            raise InvalidEvent("the messages must be objects, however: one is none")
        role = message.get("role")
        kind = message.get("type")
        if role in SYSTEM_ROLES:
            systems.append(content_text(message.get("content")))
        elif role == "user":
            asked = _read_user(message.get("content"), turns, asked)
        elif role in TOOL_ROLES:
            turns.append(Turn("tool", content_text(message.get("content"))))
        elif role is not None:
            turns.append(Turn("assistant", content_text(message.get("content"))))
        elif kind == "function_call_output":
            turns.append(Turn("tool", content_text(message.get("output"))))
        elif kind is None:
            raise InvalidEvent("the messages must each have a role, however: one has none")
    system_text = "\n".join(text for text in systems if text)
    if asked >= 0:
        before = tuple(turn for turn in turns[:asked] if turn.text)
        return Conversation(turns[asked].text, system_text, before)
    if not system_text:
        raise InvalidEvent("the messages must hold one from the user, however: none does")
    return Conversation(system_text, "", ())


def content_text(content: object) -> str:
    """The texts of a message's content, joined by newlines; of a string, the string."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidEvent("a content must be a string or a list of parts, however: neither")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            if part.get("type") in TEXT_PARTS:
                texts.append(_string(part.get("text")))
            elif part.get("type") == "document":
                texts.append(_document_text(part.get("source")))
    return "\n".join(text for text in texts if text)


def _read_user(content: object, turns: list[Turn], asked: int) -> int:
    """Adds the turns of a user message; returns where the last text of the user stands."""
    results = [
        part
        for part in (content if isinstance(content, list) else [])
        if isinstance(part, Mapping) and part.get("type") == "tool_result"
    ]
    turns.extend(Turn("tool", content_text(result.get("content"))) for result in results)
    text = content_text(content)
    if results and not text:
        return asked
    turns.append(Turn("user", text))
    return len(turns) - 1


def _document_text(source: object) -> str:
    """The text of an attached document that is plain text."""
    if isinstance(source, Mapping) and source.get("type") == "text":
        return _string(source.get("data"))
    return ""


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent("a part's text must be a string, however: another value")
    return value
