"""Conversations as data sets write them: message lists, turn markers inside strings, pairs of full conversations.

Pure functions; a value that is not a conversation raises ValueError, which the readers turn into a DataError with file
and row. Only explicit template tokens are removed; everything else of a text stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prefeval.types import Message

Messages = tuple[Message, ...]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_STEERLM_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def check_text(text: str) -> str:
    """The text itself; ValueError for a lone surrogate, which neither a file nor a tokenizer could take."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"holds half a surrogate pair at character {error.start + 1}: not valid Unicode") from None
    return text


def as_messages(value: object) -> Messages:
    """Messages from a string (one user turn), one message, or a list of {role, content} or {from, value}."""
    if isinstance(value, str):
        return (Message("user", check_text(value)),)
    if isinstance(value, Mapping):
        return (_message(value),)
    if isinstance(value, Sequence) and value:
        return tuple(_message(item) for item in value)
    raise ValueError(f"expected text or a list of messages, got {_short(value)}")


def hh_messages(text: str) -> Messages:
    r"""Turns of an Anthropic HH string: ``\n\nHuman: ...\n\nAssistant: ...``; the one space after a marker goes."""
    head, *rest = _HH_TURN.split(text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n"))
    if head.strip() or not rest:
        raise ValueError("expected a dialogue that starts with 'Human:'")
    return tuple(
        Message("user" if who == "Human" else "assistant", said.removeprefix(" "))
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    )


def hh_split(text: str) -> tuple[str, str]:
    r"""(dialogue, last reply) of an HH string, cut at the last ``\n\nAssistant:``."""
    head, marker, reply = text.rpartition("\n\nAssistant:")
    if not marker:
        raise ValueError("expected a dialogue with an 'Assistant:' turn")
    return head, reply.removeprefix(" ")


def steerlm_messages(text: str) -> Messages:
    """Turns of a HelpSteer prompt: the first user turn has no header, later ones start with ``<extra_id_1>ROLE``."""
    first, *rest = _STEERLM_TURN.split(text)
    turns = [Message("user", first)]
    turns += [
        Message("user" if who == "User" else "assistant", said) for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    return tuple(turns[:-1] if turns[-1] == Message("assistant", "") else turns)


def split_pair(a: Messages, b: Messages) -> tuple[Messages, str, str] | None:
    """(shared prompt, reply of a, reply of b), or None when they differ before one last assistant turn each."""
    cut = 0
    while cut < min(len(a), len(b)) - 1 and a[cut] == b[cut]:
        cut += 1
    tails = (a[cut:], b[cut:])
    if any(len(tail) != 1 or tail[0].role != "assistant" for tail in tails):
        return None
    return a[:cut], tails[0][0].content, tails[1][0].content


def split_strings(a: str, b: str) -> tuple[str, str, str]:
    """(shared prefix, rest of a, rest of b), cut back to the last white space, which stays with the replies.

    This is the convention of TRL's implicit prompts. The prefix is empty when the texts share no whole word.
    """
    length = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shared = a[:length]
    if length in (len(a), len(b)):  # one text begins the other: its last word is its reply
        shared = shared.rstrip()
    cut = max((n for n, char in enumerate(shared) if char.isspace()), default=0)
    return shared[:cut], a[cut:], b[cut:]


def has_images(value: object) -> bool:
    """Whether a list of messages holds a part that is not text, as arena-human-preference-140k writes images."""
    messages = value if isinstance(value, (list, tuple)) else []
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)]
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
    return any(isinstance(part, Mapping) and part.get("type", "text") != "text" for part in parts)


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"expected a message with role and content, got {_short(item)}")
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value"))
    if str(role).lower() not in _ROLES:
        raise ValueError(f"unknown role {role!r} (system, user, assistant)")
    return Message(_ROLES[str(role).lower()], _content(content))


def _content(content: object) -> str:
    """Text of a message; a list of parts is joined when all are text."""
    if isinstance(content, str):
        return check_text(content)
    if isinstance(content, Sequence):
        parts = [p.get("text") if isinstance(p, Mapping) and p.get("type", "text") == "text" else None for p in content]
        if all(isinstance(p, str) for p in parts):
            return check_text("".join(str(p) for p in parts))
    raise ValueError(f"message content must be text, got {_short(content)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
