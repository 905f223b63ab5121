"""Guided choice: servers that can hold a reply to one of a few texts. Found out once, used for one-token verdicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from prefeval.api import ChatClient, ChatRequest
from prefeval.api_types import endpoint_family
from prefeval.log import logger
from prefeval.store import Store
from prefeval.types import Message

# the parsers of one-token verdicts, and the texts that they know
CHOICES = {"alpaca_text": ("m", "M")}
_NOT_SUPPORTED = (400, 404, 422, 501)
_ROOM = 32  # tokens: enough for the choice as a JSON object
# a model that is free to say what it likes says none of the choices to this
_PROBE = ChatRequest((Message("user", "Reply with the single word: hello"),), _ROOM)


def _grammar(choices: Sequence[str]) -> dict[str, Any]:
    return {"grammar": "root ::= " + " | ".join(json.dumps(choice) for choice in choices)}


def _schema(choices: Sequence[str]) -> dict[str, Any]:
    fields = {"verdict": {"type": "string", "enum": list(choices)}}
    schema = {"type": "object", "properties": fields, "required": ["verdict"], "additionalProperties": False}
    named = {"name": "verdict", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


DIALECTS: Mapping[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "structured_outputs": lambda choices: {"structured_outputs": {"choice": list(choices)}},  # vLLM
    "guided_choice": lambda choices: {"guided_choice": list(choices)},  # vLLM before 0.12
    "grammar": _grammar,  # llama.cpp and what is built on it
    "response_format": _schema,  # everybody's, as JSON
}


class Guide:
    """Which dialect an endpoint takes, if any: one short call a dialect, remembered in the store.

    A dialect counts when the reply is one of the choices although the question asks for something else: many servers
    take unknown fields and do nothing about them. OpenAI's own endpoint is left alone, so that its verdicts stay those
    of the published protocol. A call that fails teaches nothing: no guidance then, until the next run.
    """

    def __init__(self, client: ChatClient, store: Store | None = None) -> None:
        self.client, self.store = client, store
        self._found: str | None = None  # None: not known yet; '': none
        self._probing: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def guided(self, request: ChatRequest, choices: Sequence[str]) -> ChatRequest:
        """The request held to the choices, or as it is where the endpoint cannot, or where its reply is there already.

        The text of a reply is then a choice, or a JSON object whose `verdict` is one.
        """
        if self.store is not None and self.store.has("reply", self.client.key(request)):
            return request
        dialect = await self.dialect()
        if not dialect:
            return request
        return replace(request, max_tokens=max(request.max_tokens, _ROOM), extra=DIALECTS[dialect](choices))

    async def dialect(self) -> str:
        """The name of the dialect; '' for none."""
        loop = asyncio.get_running_loop()
        async with self._probing.setdefault(loop, asyncio.Lock()):
            if self._found is None:
                self._found = await self._look()
            return self._found

    async def _look(self) -> str:
        if endpoint_family(self.client.base_url) == "openai" or self.client.collect is not None:
            return ""
        key = self.client.key(replace(_PROBE, messages=(), extra={"guided": True}))
        saved = self.store.get("probe", key) if self.store is not None else None
        if saved is not None:
            return str(saved["dialect"])
        found = ""
        for name, fields in DIALECTS.items():
            reply = await self.client.ask(replace(_PROBE, extra=fields(("m", "M"))))
            if reply.error is not None and reply.status not in _NOT_SUPPORTED:
                return ""
            if reply.error is None and _choice(reply.text) in ("m", "M"):
                found = name
                break
        if self.store is not None:
            self.store.put("probe", key, {"dialect": found})
        if found:
            logger.info("%s holds one-token verdicts to their labels ('%s')", self.client.model, found)
        return found


def _choice(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
    return str(data["verdict"]) if isinstance(data, dict) and "verdict" in data else text.strip()
