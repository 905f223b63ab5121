"""Sampling from a model behind an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, llama.cpp, OpenAI."""

from __future__ import annotations

from collections.abc import Sequence

from prefeval.api import ChatClient, ChatRequest, map_async, open_client
from prefeval.api_limits import scrub
from prefeval.errors import ConfigError, RunError
from prefeval.generate.base import SamplingParams
from prefeval.seeds import derive_seed
from prefeval.store import Store
from prefeval.types import Prompt, Response


class ServerGenerator:
    """The Generator protocol over chat completions: k replies are k requests, each with a seed of its own.

    Temperature and top_p are always sent, because servers otherwise take them from the model's generation config. The
    replies carry no token ids, so they cannot be trained on as samples with exact log-probabilities. `store` keeps
    replies under the hash of the request, so that an interrupted run pays for none twice. The protocol has no top_k:
    where a server takes one from the model's generation config (vLLM does without `--generation-config vllm`), switch
    it off in the client's `extra_body`.
    """

    def __init__(self, client: ChatClient, store: Store | None = None, *, name: str = "") -> None:
        self.client, self.store = client, store
        self._name = name

    @property
    def name(self) -> str:
        url = self.client.base_url
        return self._name or f"server:{self.client.model}{f'@{scrub(url, None)}' if url else ''}"

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        """k responses a prompt, in the order of the prompts.

        Raises RunError that names the prompt when a request has failed for good; ConfigError for a top_k, which the
        protocol has no field for.
        """
        if params.top_k:
            raise ConfigError(f"{self.name}: top_k is no field of the protocol; give it to the server itself")
        jobs = [(prompt, index) for prompt in prompts for index in range(k)]

        async def one(job: tuple[Prompt, int]) -> Response:
            prompt, index = job
            request = ChatRequest(
                prompt.messages,
                max_tokens=params.max_new_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                seed=derive_seed(seed, prompt.id, index) % 2**31,
            )
            reply = await self.client.ask(request, self.store)
            if reply.error is not None:
                raise RunError(f"{self.name}: no reply to prompt '{prompt.id}': {reply.error}")
            return Response(reply.text, finish_reason=reply.finish_reason)

        replies = map_async(one, jobs, concurrency=self.client.concurrency, title=f"asking {self.client.model}")
        return [replies[i * k : (i + 1) * k] for i in range(len(prompts))]


def open_server(spec: str, *, name: str = "", store: Store | None = None) -> ServerGenerator:
    """The generator of 'server:MODEL[@BASE_URL]' (the prefix may be missing).

    Raises ConfigError for an unusable spec. `name` stands for the spec in results.
    """
    return ServerGenerator(open_client(spec), store, name=name)
