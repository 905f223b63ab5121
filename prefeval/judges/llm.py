"""A language model as judge, behind any OpenAI-compatible endpoint.

Raw replies are stored under the hash of what was asked; the parser is not in that hash, so reading them again with
another parser costs nothing. Failed calls are verdicts with an error and are never stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from prefeval.api import ChatClient, ChatReply, ChatRequest
from prefeval.files import sha256_json
from prefeval.judges.base import CUT, EMPTY, REFUSAL, UNREADABLE, JudgeTask, Verdict
from prefeval.judges.guided import CHOICES, Guide
from prefeval.judges.parse import NO_LABEL, TEXT_FALLBACK, Parsed, parse
from prefeval.log import logger
from prefeval.store import Store
from prefeval.types import Message

# Arena-Hard v0.1 asks once more when the judgment holds no label at all (wording of its pipeline)
_NUDGE = {"arena_v01": "continue your judgment and finish by outputting a final verdict label"}
# a verdict cut by the token limit is asked for once more with this much more room, within these bounds (tokens)
_CUT_FACTOR, _CUT_LEAST, _CUT_LIMIT = 4, 2048, 32768
_TEXT_TOKENS = 16  # room for a one-token verdict in words, such as "Model m"


class LLMJudge:
    """Rules by asking a chat model. `store` keeps raw replies; without it nothing outlives the object.

    A task with `top_logprobs` is asked for log-probabilities; whether the endpoint gives them is found out once, with
    the first such task, and remembered in the store. Where it does not, the text parser of the same protocol is used,
    and the reply is held to the labels where the endpoint can do that (`Guide`); likewise where neither label is among
    the candidates.
    """

    def __init__(self, client: ChatClient, store: Store | None = None) -> None:
        self.client, self.store, self._guide = client, store, Guide(client, store)
        self._logprobs: bool | None = None  # None: nothing known; True: found, or assumed after a failed call
        self._probing: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def id(self) -> str:
        """The model, with a hash of the endpoint's extra options and the cap on replies, where there are any.

        Sampling belongs to the task.
        """
        extra = f"+{sha256_json(self.client.extra_body)[:8]}" if self.client.extra_body else ""
        cap = f"-max{self.client.reply_tokens}" if self.client.reply_tokens else ""
        return f"{self.client.model}{extra}{cap}"

    async def rule(self, task: JudgeTask) -> Verdict:
        """One verdict; a failed call or an unreadable reply is in its `error`."""
        request = ChatRequest(task.messages, task.max_tokens, task.temperature, top_logprobs=task.top_logprobs)
        parser = task.parser
        reply = await (self._with_logprobs(request) if task.top_logprobs else self.client.ask(request, self.store))
        if reply is None:
            request, parser = _in_words(request), TEXT_FALLBACK.get(parser, parser)
            if parser in CHOICES:
                request = await self._guide.guided(request, CHOICES[parser])
            reply = await self.client.ask(request, self.store)
        asked = read = [reply]
        parsed = self._read(parser, read)
        follow_up = _follow_up(parser, request, reply, parsed, self.client.reply_tokens or _CUT_LIMIT)
        if reply.logprobs is not None and parsed.error is not None:
            follow_up, parser = await self._held_to_labels(request, parser)
        if follow_up is not None:
            again = await self.client.ask(follow_up, self.store)
            asked = [reply, again]
            # a nudge continues the judgment and both parts count; more room replaces the reply that was cut
            read = asked if len(follow_up.messages) > len(request.messages) else [again]
            parsed = self._read(parser, read)
        return verdict_of(task, self.id, asked, read, parsed)

    async def _held_to_labels(self, request: ChatRequest, parser: str) -> tuple[ChatRequest | None, str]:
        """The same question held to the labels, and who reads the answer; None where the endpoint cannot."""
        in_words = TEXT_FALLBACK.get(parser, parser)
        if in_words not in CHOICES:
            return None, parser
        guided = await self._guide.guided(_in_words(request), CHOICES[in_words])
        return (guided, in_words) if guided.extra else (None, parser)

    async def _with_logprobs(self, request: ChatRequest) -> ChatReply | None:
        """The reply with log-probabilities; None when the endpoint is known or found to give none.

        While that is not known one task asks and the others wait for what it finds. A failed call teaches nothing, and
        then they go on together: a server that is down must not be waited for one task at a time.
        """
        if self._logprobs is None:
            loop = asyncio.get_running_loop()
            async with self._probing.setdefault(loop, asyncio.Lock()):
                if self._logprobs is None:
                    self._logprobs = self._remembered()
                if self._logprobs is None:
                    return self._learn(await self.client.ask(request, self.store))
        if self._logprobs is False:
            return None
        return self._learn(await self.client.ask(request, self.store))

    def _learn(self, reply: ChatReply) -> ChatReply | None:
        # a reasoning model may spend its one token on thinking: no text, no candidates, finish_reason length
        said = bool(reply.text.strip()) or reply.finish_reason == "length"
        without = reply.error is None and reply.logprobs is None and said and not reply.refusal
        if without or _refuses_logprobs(reply):
            self._logprobs = False
            self._remember(False)
            return None
        if reply.logprobs is not None and self._logprobs is None:
            self._remember(True)
        self._logprobs = True
        return reply

    def _remembered(self) -> bool | None:
        found = self.store.get("probe", self._probe_key()) if self.store is not None else None
        return bool(found["logprobs"]) if found else None

    def _remember(self, gives: bool) -> None:
        key = self._probe_key()
        if self.store is not None and not self.store.has("probe", key):
            self.store.put("probe", key, {"logprobs": gives})
            if not gives:
                logger.warning("%s gives no log-probabilities: its verdicts are read from the text", self.client.model)

    def _probe_key(self) -> str:
        return self.client.key(ChatRequest((), 1, top_logprobs=1))

    def _read(self, parser: str, replies: list[ChatReply]) -> Parsed:
        failed = failed_call(replies)
        if failed is not None:
            return Parsed(error=failed)
        raw = "\n".join(r.text for r in replies)
        if not raw.strip() and replies[0].logprobs is None:
            cut = " (the token limit was used up before it)" if replies[-1].finish_reason == "length" else ""
            return Parsed(error=f"empty reply{cut}")
        return parse(parser, raw, replies[0].logprobs)


def verdict_of(
    task: JudgeTask, judge: str, asked: Sequence[ChatReply], read: Sequence[ChatReply], parsed: Parsed
) -> Verdict:
    """What the replies that were `read` say, with the tokens and dollars of all that were `asked` for."""
    raw, error = "\n".join(r.text for r in read), parsed.error
    reason = _reason(read, raw, task.max_tokens) if error is not None else None
    if reason in (UNREADABLE, CUT) and raw.strip():
        cut = ", cut by its token limit" if reason == CUT else ""
        error = f"unreadable verdict ({task.parser}): {error}{cut}"
    return Verdict(
        task_id=task.id,
        judge=judge,
        p_first=parsed.p_first,
        grade=parsed.grade,
        label=parsed.label,
        raw=raw,
        error=error,
        reason=reason,
        prompt_tokens=sum(r.usage.prompt_tokens for r in asked),
        completion_tokens=sum(r.usage.completion_tokens for r in asked),
        cost=sum(r.cost for r in asked),
    )


def failed_call(replies: Sequence[ChatReply]) -> str | None:
    """Why there is nothing to read; None where there is."""
    return next((r.error or f"refused: {r.refusal}" for r in replies if r.error or r.refusal), None)


def _reason(read: Sequence[ChatReply], raw: str, limit: int) -> str:
    """What a failed call or an unreadable reply is counted by."""
    failed = next((r for r in read if r.error), None)
    if failed is not None:
        return failed.reason or "failed call"
    if any(r.refusal for r in read):
        return REFUSAL
    if read[-1].finish_reason == "length" and (limit > 1 or not raw.strip()):
        return CUT
    return UNREADABLE if raw.strip() or read[0].logprobs is not None else EMPTY


def _refuses_logprobs(reply: ChatReply) -> bool:
    """An endpoint that answers the request with 'logprobs are not supported' instead of leaving them out."""
    return reply.status in (400, 403, 404, 422) and "logprob" in (reply.error or "").lower()


def _in_words(request: ChatRequest) -> ChatRequest:
    return replace(request, top_logprobs=0, temperature=0.0, max_tokens=max(request.max_tokens, _TEXT_TOKENS))


def _follow_up(parser: str, request: ChatRequest, reply: ChatReply, parsed: Parsed, most: int) -> ChatRequest | None:
    """The second question to an unreadable reply, where there is one worth asking; `most` tokens is all it may take."""
    if reply.error is not None or reply.refusal or parsed.error is None or request.top_logprobs:
        return None
    larger = min(max(request.max_tokens * _CUT_FACTOR, _CUT_LEAST), most)
    if reply.finish_reason == "length" and larger > request.max_tokens:
        return replace(request, max_tokens=larger)
    if not reply.text.strip():
        return replace(request, attempt=1)  # some servers now and then answer nothing
    if parser in _NUDGE and parsed.error == NO_LABEL and reply.text:
        turns = (Message("assistant", reply.text), Message("user", _NUDGE[parser]))
        return replace(request, messages=(*request.messages, *turns))
    return None
