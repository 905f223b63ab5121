"""Log-probs and their gradients against a loop over plain logits; what they must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer

import alignment.logprobs as subject
from alignment.logprobs import TokenSequence, frozen_logprobs, has_plain_logits, sequence_logprobs, token_logprobs
from alignment.policy import Slots
from alignment.samples import SampledGroup, read_samples, read_tables, token_sequences, write_samples, write_tables
from prefeval import chat
from prefeval.errors import DataError
from prefeval.types import Prompt, Response

PAD = 0
SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def sequences(count: int = 7, seed: int = 0) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    out = []
    for _ in range(count):
        prompt, reply = draw(1, 9), draw(1, 12)
        ids = torch.randint(6, 300, (prompt + reply,), generator=generator).tolist()
        ids[-1] = 2  # the end token
        out.append(TokenSequence(tuple(ids), prompt))
    return out


def by_loop(model: Any, batch: list[TokenSequence]) -> torch.Tensor:
    """One sequence at a time, one token at a time, from the model's own logits in float64."""
    rows = []
    for s in batch:
        logits = model(input_ids=torch.tensor([s.ids])).logits[0].double()
        steps = [torch.log_softmax(logits[t - 1], 0)[s.ids[t]] for t in range(s.prompt_length, len(s.ids))]
        rows.append(torch.stack(steps).sum())
    return torch.stack(rows)


def build(kind: str, **options: Any) -> Any:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **options})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10.0)
    return model


def tied_model() -> Any:
    model = build("Llama", tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return model


def biased_model() -> Any:
    model = build("Phi", num_key_value_heads=4)
    with torch.no_grad():
        model.lm_head.bias.normal_(generator=torch.Generator().manual_seed(1))
    return model


PLAIN = {"own output matrix": lambda: build("Llama"), "tied": tied_model}
OTHERS = {
    "soft-capped": lambda: build("Gemma2", final_logit_softcapping=5.0, head_dim=8, query_pre_attn_scalar=8),
    "hardly soft-capped": lambda: build("Gemma2", final_logit_softcapping=1e4, head_dim=8, query_pre_attn_scalar=8),
    "scaled down": lambda: build("Granite", logits_scaling=8.0),
    "scaled up": lambda: build("Cohere", logit_scale=3.0),
    "with a bias": biased_model,
}


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_values_and_gradients_of_every_parameter(name: str) -> None:
    model = {**PLAIN, **OTHERS}[name]()
    batch, weights = sequences(), torch.linspace(-1.0, 2.0, 7)
    assert has_plain_logits(model) == (name in PLAIN)
    model.zero_grad()
    wanted = by_loop(model, batch)
    (wanted * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    found = sequence_logprobs(model, batch, PAD)
    assert found.dtype == torch.float32
    (found * weights).sum().backward()
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-6)
    assert gradients
    for parameter, value in model.named_parameters():
        scale = float(gradients[parameter].abs().max())
        torch.testing.assert_close(value.grad, gradients[parameter], atol=2e-5 * max(scale, 1e-3), rtol=0)


def siblings() -> list[TokenSequence]:
    """Responses of 1 to 9 tokens to three prompts of 3 to 12, not sorted by prompt."""
    generator = torch.Generator().manual_seed(3)
    prompts = [tuple(torch.randint(6, 300, (n,), generator=generator).tolist()) for n in (12, 3, 9)]
    replies = [(p, n) for n in (9, 1, 4, 1) for p in prompts]
    return [TokenSequence((*p, *torch.randint(6, 300, (n,), generator=generator).tolist()), len(p)) for p, n in replies]


@pytest.mark.parametrize("longest", [9, 1])
def test_prompts_that_are_read_once_give_the_same_values_and_gradients(longest: int) -> None:
    model, batch = tied_model(), [s for s in siblings() if s.response_length <= longest]
    weights = torch.linspace(-1.0, 2.0, len(batch))
    assert has_plain_logits(model)
    assert subject.is_worth_sharing(model, batch)
    wanted = by_loop(model, batch)
    (wanted * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    lengths: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _, args, inputs: lengths.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    found = sequence_logprobs(model, batch, PAD)
    (found * weights).sum().backward()
    assert lengths == [3 * 12] + [len(batch) * 8] * (longest > 1)  # each prompt once, no last token
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-6)
    for parameter, value in model.named_parameters():
        scale = float(gradients[parameter].abs().max())
        torch.testing.assert_close(value.grad, gradients[parameter], atol=2e-5 * max(scale, 1e-3), rtol=0)


def test_where_it_would_not_pay_or_not_hold_sequences_are_read_whole() -> None:
    model = build("Llama")
    assert not subject.is_worth_sharing(model, sequences())  # all prompts differ
    assert not subject.is_worth_sharing(build("Mistral", sliding_window=4), siblings())
    model.gradient_checkpointing_enable()
    assert not subject.is_worth_sharing(model, siblings())


@pytest.mark.parametrize("chunk", [1, 3, 8, 10_000])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    model, batch = tied_model(), sequences()
    wanted = sequence_logprobs(model, batch, PAD)
    wanted.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(subject, "CHUNK", chunk)
    found = sequence_logprobs(model, batch, PAD)
    found.sum().backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    for value, before in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(value.grad, before, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["own output matrix", "soft-capped"])
def test_neighbours_and_padding_change_nothing(name: str) -> None:
    model, batch = {**PLAIN, **OTHERS}[name](), sequences()
    together = sequence_logprobs(model, batch, PAD)
    for pad in (PAD, 5, 2):  # even the end token: positions behind a sequence are not looked at
        alone = torch.cat([sequence_logprobs(model, [s], pad) for s in batch])
        torch.testing.assert_close(sequence_logprobs(model, batch, pad), together, atol=0, rtol=0)
        torch.testing.assert_close(alone, together, atol=2e-5, rtol=0)
    backwards = sequence_logprobs(model, batch[::-1], PAD).flip(0)
    torch.testing.assert_close(backwards, together, atol=2e-5, rtol=0)


def test_the_end_token_counts_once_and_the_prompt_not_at_all() -> None:
    model, [s] = build("Llama"), sequences(1, seed=4)
    tokens, owner = token_logprobs(model, [s], PAD)
    assert len(tokens) == s.response_length
    assert owner.tolist() == [0] * s.response_length
    without_end = sequence_logprobs(model, [TokenSequence(s.ids[:-1], s.prompt_length)], PAD)
    assert sequence_logprobs(model, [s], PAD).item() == pytest.approx((without_end + tokens[-1]).item(), abs=1e-5)
    whole = sequence_logprobs(model, [TokenSequence(s.ids, 1)], PAD)
    prompt = sequence_logprobs(model, [TokenSequence(s.ids[: s.prompt_length], 1)], PAD)
    assert (whole - prompt).item() == pytest.approx(tokens.sum().item(), abs=1e-4)


def test_frozen_values_are_in_order_and_repeat_bit_for_bit() -> None:
    model, many = build("Llama"), sequences(20, seed=5)
    first = frozen_logprobs(model, many, PAD, batch_tokens=40)
    assert frozen_logprobs(model, many, PAD, batch_tokens=40) == first
    assert first == pytest.approx(by_loop(model, many).tolist(), abs=1e-4)
    assert frozen_logprobs(model, many, PAD, batch_tokens=1) == pytest.approx(first, abs=2e-5)


def test_bf16_weights_give_fp32_sums_near_the_exact_ones() -> None:
    """Stated bound: 0.1 nats a token for logits of a few units that carry 8 bits."""
    model, batch = build("Llama"), sequences()
    wanted = by_loop(model, batch)
    found = sequence_logprobs(model.to(torch.bfloat16), batch, PAD)
    assert found.dtype == torch.float32
    lengths = torch.tensor([s.response_length for s in batch])
    assert ((found - wanted).abs() / lengths).max() < 0.1
    found.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_autocast_leaves_values_and_gradients_consistent() -> None:
    """The output matrix is applied outside autocast, so that the backward pass recomputes what the forward saw."""
    model, batch = build("Llama"), sequences()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sequence_logprobs(model, batch, PAD)
    assert found.dtype == torch.float32
    found.sum().backward()
    head = model.lm_head.weight.grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=torch.tensor([batch[0].ids])).last_hidden_state[0].float()
    s = batch[0]
    steps = hidden[s.prompt_length - 1 : -1] @ model.lm_head.weight.detach().T
    exact = torch.log_softmax(steps, -1)[torch.arange(len(steps)), torch.tensor(s.ids[s.prompt_length :])].sum()
    assert found[0].item() == pytest.approx(exact.item(), abs=0.05 * s.response_length)
    # each position's softmax slope sums to zero over the vocabulary only if both passes saw the same logits
    assert head.sum(0).abs().max() < 1e-3 * head.abs().max()


def test_token_sequences_are_the_sampled_ids_behind_the_prompt() -> None:
    tokenizer = make_tiny_tokenizer()
    prompt = Prompt.from_text("Hi", id="a")
    group = SampledGroup(prompt, (Response("x", (70, 71, 2), "stop", -1.0), Response("x", (9,), "length", -2.0)))
    [[first, second]] = token_sequences(tokenizer, [group], "Be brief.")
    head = chat.encode_prompt(tokenizer, Prompt.from_text("Hi Be brief."))
    assert first == TokenSequence((*head, 70, 71, 2), len(head))
    assert (second.ids, second.response_length) == ((*head, 9), 1)
    with pytest.raises(DataError, match="prompt a"):
        token_sequences(tokenizer, [SampledGroup(prompt, (Response("served"),))], "")


def test_samples_and_tables_come_back_from_disk(tmp_path: Any) -> None:
    groups = [
        SampledGroup(
            Prompt.from_text("Hi\u2028there", id="a", system="S"), (Response("x\u0085y", (5, 2), "stop", -0.1),)
        ),
        SampledGroup(
            Prompt.from_text("Two", id="b"), (Response("é", None, None, None), Response("", (1,), "length", 0.0))
        ),
    ]
    write_samples(tmp_path / "s.jsonl", groups)
    assert read_samples(tmp_path / "s.jsonl") == groups
    tables = [torch.rand(k, k, dtype=torch.float64).numpy() for k in range(1, 13)]
    tables[2][0, 1] = float("nan")
    write_tables(tmp_path / "t.safetensors", tables)
    for found, wanted in zip(read_tables(tmp_path / "t.safetensors"), tables, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_slots_default_to_the_start_and_mixtures_are_averages() -> None:
    slots = Slots.from_start("s")
    assert slots.checkpoint("aux") == "s"
    first = slots.with_checkpoint("policy", "p1").averaged("aux", "p1", 0.5)
    assert dict(map(reversed, first.mixture("aux"))) == {"s": 0.5, "p1": 0.5}  # type: ignore[arg-type]
    second = first.averaged("aux", "p2", 0.5)
    assert dict(map(reversed, second.mixture("aux"))) == {"s": 0.25, "p1": 0.25, "p2": 0.5}  # type: ignore[arg-type]
    assert sum(w for w, _ in second.averaged("aux", "p1", 0.25).mixture("aux")) == pytest.approx(1.0)
    assert Slots.from_json(second.as_json()) == second
    with pytest.raises(ValueError, match="mixture of 3"):
        second.checkpoint("aux")
    with pytest.raises(ValueError, match="never overwritten"):
        slots.with_checkpoint("start", "x")


def test_the_tiny_model_takes_the_fast_path() -> None:
    assert has_plain_logits(make_tiny_model())
    assert has_plain_logits(make_tiny_model().to(torch.bfloat16))
