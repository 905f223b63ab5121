"""Log-probabilities of given responses, in fp32, without ever holding batch x vocabulary logits.

One code path serves the trained policy and the frozen anchors. The final hidden states of the response positions are
multiplied by the output matrix in chunks; the backward pass recomputes each chunk's logits instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from alignment.shared_prompts import is_worth_sharing, response_states
from prefeval.batching import pad_right, token_batches

_PLAIN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # model -> what has_plain_logits found
FROZEN_TOKENS = 16384  # padded tokens of a batch without gradients
CHUNK = 512  # response positions whose logits are held at a time: 512 x 49k fp32 = 100 MB


@dataclass(frozen=True)
class TokenSequence:
    """One prompt with one response, as ids; the first `prompt_length` ids are the prompt."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def response_length(self) -> int:
        return len(self.ids) - self.prompt_length


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[target] for each row, chunked, with recomputation in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        norms = torch.empty_like(out)
        with torch.autocast(hidden.device.type, enabled=False):  # the backward pass runs outside of any autocast
            for part in _chunks(len(targets)):
                logits = (hidden[part] @ weight.T).float()
                above, top = logits.gather(1, targets[part, None])[:, 0], logits.amax(dim=-1)
                # in place, here and below: fresh pages for arrays of this size cost as much as the arithmetic
                norms[part] = top + logits.sub_(top[:, None]).exp_().sum(dim=-1).log()
                out[part] = above - norms[part]
        ctx.save_for_backward(hidden, weight, targets, norms)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        hidden, weight, targets, norms = ctx.saved_tensors
        (grad,) = grads
        grad_hidden = torch.empty_like(hidden)
        # fp32, because a bf16 sum over thousands of positions would round small contributions away
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for part in _chunks(len(targets)):
            slope = (hidden[part] @ weight.T).float().sub_(norms[part, None]).exp_().neg_()
            slope[torch.arange(len(slope), device=slope.device), targets[part]] += 1.0
            slope = slope.mul_(grad[part, None]).to(hidden.dtype)
            grad_hidden[part] = slope @ weight
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


def sequence_logprobs(model: Any, batch: Sequence[TokenSequence], pad_id: int) -> torch.Tensor:
    """Log-probabilities (N,) fp32 in nats of the responses of a batch, summed: end token yes, prompt and padding no.

    Right padding under a causal mask cannot reach the real positions, so no attention mask is needed.
    """
    return summed(*token_logprobs(model, batch, pad_id), len(batch))


def summed(tokens: torch.Tensor, owner: torch.Tensor, count: int) -> torch.Tensor:
    """Sums (count,) fp32 of token values (T,) by the sequence each belongs to."""
    return torch.zeros(count, dtype=torch.float32, device=tokens.device).index_add(0, owner, tokens)


def token_logprobs(model: Any, batch: Sequence[TokenSequence], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs (T,) fp32 of all response tokens, index (T,) of the sequence each belongs to).

    Models whose logits are more than a matrix product (soft-capped, scaled, with a bias) go through their own logits,
    which takes the memory of batch x positions x vocabulary.
    """
    device = next(model.parameters()).device
    ids, _ = pad_right([s.ids for s in batch], pad_id)
    ids = ids.to(device)
    rows = [r for r, s in enumerate(batch) for _ in range(s.response_length)]
    columns = [c for s in batch for c in range(s.prompt_length, len(s.ids))]
    row, column = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
    if not has_plain_logits(model):
        logits = model(input_ids=ids, use_cache=False).logits[row, column - 1].float()
        return torch.log_softmax(logits, dim=-1).gather(1, ids[row, column, None])[:, 0], row
    weight = model.get_output_embeddings().weight
    if is_worth_sharing(model, batch):
        hidden = response_states(_backbone(model), model.config, batch, pad_id)
    else:
        hidden = _backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[row, column - 1]
    logprobs: torch.Tensor = _TokenLogprobs.apply(hidden.to(weight.dtype), weight, ids[row, column])  # type: ignore[no-untyped-call]
    return logprobs, row


def has_plain_logits(model: Any) -> bool:
    """Whether the model's logits are its last hidden states times its output matrix: asked of the model itself, once.

    Soft-capping is read off the config: it hardly shows while logits are small.
    """
    if model not in _PLAIN:
        capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        _PLAIN[model] = not capped and _product_is_logits(model)
    return _PLAIN[model]


def _product_is_logits(model: Any) -> bool:
    head = model.get_output_embeddings()
    ids = torch.arange(8, device=next(model.parameters()).device)[None] % head.weight.shape[0]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
        hidden = _backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
        product = (hidden.to(head.weight.dtype) @ head.weight.T).float()
    tolerance = 1e-4 if head.weight.dtype == torch.float32 else 2e-2  # kernels round by shape
    return bool((product - logits).abs().max() <= tolerance * logits.abs().max())


def frozen_logprobs(
    model: Any, sequences: Sequence[TokenSequence], pad_id: int, *, batch_tokens: int = FROZEN_TOKENS, bar: Any = None
) -> list[float]:
    """Response log-probs of many sequences under a frozen model, in length-sorted batches."""
    out = [0.0] * len(sequences)
    with torch.inference_mode():
        for chosen in token_batches([len(s.ids) for s in sequences], batch_tokens):
            values = sequence_logprobs(model, [sequences[i] for i in chosen], pad_id)
            for i, value in zip(chosen, values.tolist(), strict=True):
                out[i] = value
            if bar is not None:
                bar.advance(len(chosen))
    return out


def frozen_token_logprobs(
    model: Any, sequences: Sequence[TokenSequence], pad_id: int, *, batch_tokens: int = FROZEN_TOKENS
) -> list[list[float]]:
    """Log-probs of each response token of many sequences under a frozen model."""
    out: list[list[float]] = [[] for _ in sequences]
    with torch.inference_mode():
        for chosen in token_batches([len(s.ids) for s in sequences], batch_tokens):
            values, owner = token_logprobs(model, [sequences[i] for i in chosen], pad_id)
            for value, row in zip(values.tolist(), owner.tolist(), strict=True):
                out[chosen[row]].append(value)
    return out


def _backbone(model: Any) -> Any:
    """The transformer without its output matrix."""
    return getattr(model, model.base_model_prefix)


def _chunks(length: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, length, CHUNK)]
