"""In-process sampling against plain transformers forwards: tokens, log-probs, distributions, caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.generate import SamplingParams, open_generator
from prefeval.generate.cache import _GrowingLayer, growing_cache
from prefeval.generate.drawing import draw, truncate
from prefeval.generate.hf import HFGenerator, _fitting
from prefeval.generate.mixture import MixtureModel
from prefeval.seeds import rng
from prefeval.types import Prompt, Response

TOKENIZER = make_tiny_tokenizer()
PROMPTS = [
    Prompt.from_text("Why is the sky blue?", id="sky"),
    Prompt.from_text("Hi", id="hi"),
    Prompt.from_text("Name three colours of the rainbow, please, and then say which of them you like best.", id="long"),
    Prompt.from_text("The quick brown fox?", id="fox"),
    Prompt.from_text("Name a dog.", id="dog"),
]
PARAMS = SamplingParams(max_new_tokens=24)


def sharp_model(seed: int = 0, vocab: int = 300) -> Any:
    """The tiny model with a peaked distribution in which the end token is common: a flat one would hide mistakes."""
    model = make_tiny_model(seed, vocab=vocab)
    with torch.no_grad():
        model.lm_head.weight.mul_(12.0)
        model.model.embed_tokens.weight.mul_(8.0)
        model.lm_head.weight[TOKENIZER.eos_token_id].mul_(1.6)
    return model


MODEL = sharp_model()


def generator(model: Any = MODEL, rows: int = 96) -> HFGenerator:
    return HFGenerator(model, TOKENIZER, batch_rows=rows)


def independent_logprob(model: Any, prompt: Prompt, response: Response) -> float:
    """One unpadded forward over the whole sequence, no cache, nothing shared with the generator."""
    head = chat.encode_prompt(TOKENIZER, prompt)
    ids = torch.tensor([[*head, *(response.token_ids or ())]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    steps = torch.log_softmax(logits[len(head) - 1 : -1], -1)
    return float(steps[torch.arange(len(steps)), ids[0, len(head) :]].sum())


def test_tokens_depend_on_neither_batches_nor_order() -> None:
    wanted = generator().sample(PROMPTS, 5, PARAMS, seed=3)
    for rows in (1, 2, 5, 12):
        assert [[r.token_ids for r in g] for g in generator(rows=rows).sample(PROMPTS, 5, PARAMS, seed=3)] == [
            [r.token_ids for r in g] for g in wanted
        ]
    backwards = generator().sample(PROMPTS[::-1], 5, PARAMS, seed=3)
    assert [[r.text for r in g] for g in backwards[::-1]] == [[r.text for r in g] for g in wanted]
    alone = [generator().sample([p], 5, PARAMS, seed=3)[0] for p in PROMPTS]
    assert [[r.token_ids for r in g] for g in alone] == [[r.token_ids for r in g] for g in wanted]
    fewer = generator().sample(PROMPTS, 2, PARAMS, seed=3)
    assert [[r.token_ids for r in g] for g in fewer] == [[r.token_ids for r in g[:2]] for g in wanted]
    assert [[r.token_ids for r in g] for g in generator().sample(PROMPTS, 5, PARAMS, seed=4)] != [
        [r.token_ids for r in g] for g in wanted
    ]


def test_no_more_than_batch_rows_are_decoded_together() -> None:
    seen: list[int] = []
    hook = MODEL.lm_head.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        generator(rows=4).sample(PROMPTS, 10, PARAMS, seed=0)
    finally:
        hook.remove()
    assert max(seen) == 4


def test_long_prompts_wait_for_room_and_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generator().sample(PROMPTS, 3, PARAMS, seed=0)
    widths = sorted(len(chat.encode_prompt(TOKENIZER, p)) for p in PROMPTS)
    monkeypatch.setattr("prefeval.generate.hf._PROMPT_TOKENS", 2 * widths[1])  # two short ones, or a long one alone
    assert len(generator().first_batch(PROMPTS, 3)) == 2
    again = generator().sample(PROMPTS, 3, PARAMS, seed=0)
    assert [[r.token_ids for r in g] for g in again] == [[r.token_ids for r in g] for g in whole]


@pytest.mark.parametrize("rows", [[1, 1, 1], [4, 4, 4], [9, 9, 9]])
def test_prompts_join_as_far_as_rows_and_padded_prompts_have_room(rows: list[int]) -> None:
    """9 places: a whole group of nine is one; 32,768 padded tokens: two prompts of 12,000 fit, three do not."""
    assert _fitting(rows, [10, 20, 30], 9) == {1: 3, 4: 2, 9: 1}[rows[0]]
    assert _fitting(rows, [10, 12_000, 12_000], 9) == {1: 2, 4: 2, 9: 1}[rows[0]]
    assert _fitting(rows, [40_000] * 3, 9) == 1  # alone, whatever its length
    assert _fitting(rows, [40_000] * 3, 9, others=1) == 0


@pytest.mark.parametrize("params", [PARAMS, SamplingParams(24, temperature=0.7, top_p=0.9, top_k=20)])
def test_logprob_is_that_of_an_independent_forward(params: SamplingParams) -> None:
    """At temperature 1 and without truncation, whatever the sampling was."""
    groups = generator(rows=7).sample(PROMPTS, 4, params, seed=1)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for response in group:
            assert response.logprob == pytest.approx(independent_logprob(MODEL, prompt, response), abs=1e-4)


def test_logprob_in_bf16_is_close_to_an_independent_forward() -> None:
    """Stated bound: logits of about 10 carry 8 bits, so 0.1 nats a token at most and 0.02 on average."""
    model = sharp_model().to(torch.bfloat16)
    groups = generator(model).sample(PROMPTS, 6, PARAMS, seed=1)
    per_token = [
        abs((r.logprob or 0.0) - independent_logprob(model, p, r)) / len(r.token_ids or ())
        for p, g in zip(PROMPTS, groups, strict=True)
        for r in g
    ]
    assert max(per_token) < 0.1
    assert np.mean(per_token) < 0.02


def test_a_reply_ends_with_the_end_token_exactly_when_it_stopped() -> None:
    end = TOKENIZER.eos_token_id
    replies = [r for g in generator().sample(PROMPTS, 20, PARAMS, seed=5) for r in g]
    assert {r.finish_reason for r in replies} == {"stop", "length"}
    for reply in replies:
        ids = reply.token_ids or ()
        assert (ids[-1] == end) == (reply.finish_reason == "stop")
        assert end not in ids[:-1]
        assert len(ids) == PARAMS.max_new_tokens or reply.finish_reason == "stop"
        assert reply.text == chat.decode(TOKENIZER, ids)


def test_an_end_of_turn_that_is_not_special_stays_out_of_the_text() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "[over]")
    tokenizer.add_tokens(["[over]"])
    end = tokenizer.convert_tokens_to_ids("[over]")
    model = sharp_model(vocab=end + 1)
    with torch.no_grad():
        model.lm_head.weight[end] = model.lm_head.weight[TOKENIZER.eos_token_id]
    replies = [r for g in HFGenerator(model, tokenizer).sample(PROMPTS, 20, PARAMS, seed=5) for r in g]
    ended = [r for r in replies if (r.token_ids or ())[-1] == end]
    assert ended
    assert all(r.finish_reason == "stop" for r in ended)
    assert not any("[over]" in r.text for r in replies)


def first_token_distribution(prompt: Prompt) -> torch.Tensor:
    ids = torch.tensor([chat.encode_prompt(TOKENIZER, prompt)])
    with torch.no_grad():
        return MODEL(input_ids=ids).logits[0, -1].double()


def brute_force(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """Probabilities after temperature, top-k and top-p, one token at a time."""
    values = logits.double().numpy() / params.temperature
    order = sorted(range(len(values)), key=lambda i: -values[i])
    kept = set(order[: params.top_k or len(order)])
    weights = np.array([np.exp(values[i] - values.max()) if i in kept else 0.0 for i in range(len(values))])
    weights /= weights.sum()
    mass, chosen = 0.0, []
    for i in order:
        if mass >= params.top_p:
            break
        chosen.append(i)
        mass += weights[i]
    out = np.zeros(len(values))
    out[chosen] = weights[chosen]
    return out / out.sum()


def chi_square(tokens: list[int], probs: np.ndarray) -> float:
    """p-value of the counts, with tokens expected less than 5 times put together."""
    counts = np.bincount(tokens, minlength=len(probs)).astype(float)
    expected = probs * len(tokens)
    common = expected >= 5
    found = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] == 0:
        assert found[-1] == 0
        found, wanted = found[:-1], wanted[:-1]
    return float(chisquare(found, wanted * found.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1),
        SamplingParams(1, temperature=0.6),
        SamplingParams(1, temperature=1.5),
        SamplingParams(1, top_k=5),
        SamplingParams(1, top_p=0.6),
        SamplingParams(1, temperature=1.3, top_p=0.8, top_k=12),
    ],
)
def test_the_first_token_has_the_right_distribution(params: SamplingParams) -> None:
    probs = brute_force(first_token_distribution(PROMPTS[0]), params)
    tokens = [
        (r.token_ids or (0,))[0]
        for seed in range(8)
        for r in generator(rows=500).sample([PROMPTS[0]], 500, params, seed)[0]
    ]
    assert set(tokens) <= set(np.flatnonzero(probs).tolist())
    assert chi_square(tokens, probs) > 1e-3
    flat = np.full(len(probs), 1 / len(probs))
    assert chi_square(tokens, flat) < 1e-6  # the test can tell


def test_tokens_of_a_reply_are_drawn_independently() -> None:
    """The joint distribution of two tokens, each from the three likeliest."""
    params, head = SamplingParams(2, top_k=3), chat.encode_prompt(TOKENIZER, PROMPTS[0])
    first = brute_force(first_token_distribution(PROMPTS[0]), params)
    joint: dict[tuple[int, ...], float] = {}
    for a in np.flatnonzero(first).tolist():
        with torch.no_grad():
            second = brute_force(MODEL(input_ids=torch.tensor([[*head, a]])).logits[0, -1], params)
        ends = a == TOKENIZER.eos_token_id
        joint |= {(a,): first[a]} if ends else {(a, int(b)): first[a] * second[b] for b in np.flatnonzero(second)}
    found = [r.token_ids for r in generator(rows=3000).sample([PROMPTS[0]], 3000, params, seed=2)[0]]
    cells = sorted(joint)
    assert set(found) <= set(cells)
    assert len(cells) >= 7
    assert chi_square([cells.index(ids or ()) for ids in found], np.array([joint[c] for c in cells])) > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (7, 1.0), (0, 0.5), (0, 0.05), (7, 0.7), (400, 0.99)])
def test_truncation_against_brute_force(temperature: float, top_k: int, top_p: float) -> None:
    params = SamplingParams(1, temperature, top_p, top_k)
    logits = 3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    kept = truncate(logits, params).double()
    kept = kept / kept.sum(-1, keepdim=True)
    np.testing.assert_allclose(kept, np.stack([brute_force(row, params) for row in logits]), atol=1e-6)


def test_a_draw_inverts_the_distribution() -> None:
    """N evenly spaced uniforms hit every token as often as its probability says, to one count."""
    logits = 2 * torch.randn(30, generator=torch.Generator().manual_seed(1))
    count = 2000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, logprobs = draw(logits.expand(count, 30), uniforms, SamplingParams(1))
    probs = torch.softmax(logits.double(), -1)
    assert (torch.bincount(tokens, minlength=30) - count * probs).abs().max() <= 1.0 + 1e-3
    torch.testing.assert_close(logprobs.double(), probs.log()[tokens], atol=1e-5, rtol=0)
    edges = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    first, last = draw(logits.expand(2, 30), edges, SamplingParams(1, top_k=3))[0].tolist()
    top = logits.topk(3).indices.tolist()
    assert (first, last) == (min(top), max(top))


def test_temperature_zero_is_greedy() -> None:
    [group] = generator().sample(PROMPTS[:1], 3, SamplingParams(10, temperature=0), seed=9)
    ids = chat.encode_prompt(TOKENIZER, PROMPTS[0])
    wanted: list[int] = []
    while len(wanted) < 10 and TOKENIZER.eos_token_id not in wanted:
        with torch.no_grad():
            wanted.append(int(MODEL(input_ids=torch.tensor([[*ids, *wanted]])).logits[0, -1].argmax()))
    assert {r.token_ids for r in group} == {tuple(wanted)}


def test_sampling_leaves_the_model_as_it_was() -> None:
    model = sharp_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator(model).sample(PROMPTS[:1], 1, PARAMS, seed=0)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError, match="on purpose"):
        broken(model).sample(PROMPTS[:1], 1, PARAMS, seed=0)
    assert model.training


def broken(model: Any) -> HFGenerator:
    found = generator(model)

    def fail(*args: Any) -> None:
        raise RuntimeError("on purpose")

    found._decode = fail  # type: ignore[method-assign]
    return found


def step_by_step(model: Any, cache: Any, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Logits of every position from `first - 1` on, decoded one token at a time."""
    with torch.no_grad():
        parts = [ids[:, :first], *ids[:, first:].split(1, dim=1)]
        rows = [model(input_ids=part, past_key_values=cache, use_cache=True).logits[:, -1] for part in parts]
    return torch.stack(rows, 1)


def test_the_growing_cache_gives_the_logits_of_a_full_forward() -> None:
    ids = torch.randint(6, 290, (3, 20), generator=torch.Generator().manual_seed(2))
    cache = growing_cache(MODEL, capacity=20)
    assert all(isinstance(layer, _GrowingLayer) for layer in cache.layers)
    with torch.no_grad():
        wanted = MODEL(input_ids=ids, use_cache=False).logits[:, 4:]
    torch.testing.assert_close(step_by_step(MODEL, cache, ids, 5), wanted, atol=1e-4, rtol=0)
    assert cache.get_seq_length() == 20


def test_the_growing_cache_repeats_selects_and_outgrows_its_capacity() -> None:
    ids = torch.randint(6, 290, (2, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = MODEL(input_ids=ids, use_cache=False).logits[:, 7:]
    for capacity in (3, 8, 9, 12):
        cache = growing_cache(MODEL, capacity)
        with torch.no_grad():
            MODEL(input_ids=ids[:, :7], past_key_values=cache, use_cache=True)
            cache.batch_select_indices(torch.tensor([0, 0, 1, 1]))
            cache.batch_select_indices(torch.tensor([1, 2]))  # a row of either prompt
        found = step_by_step(MODEL, cache, ids[:, 7:], 1)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def sliding_model() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=6)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(12.0)
        model.model.embed_tokens.weight.mul_(8.0)
    return model


def test_a_sliding_window_gets_the_librarys_own_cache() -> None:
    model = sliding_model()
    assert not any(isinstance(layer, _GrowingLayer) for layer in growing_cache(model, 40).layers)
    groups = generator(model).sample(PROMPTS, 3, PARAMS, seed=1)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for response in group:
            assert response.logprob == pytest.approx(independent_logprob(model, prompt, response), abs=1e-3)


def test_open_generator_from_a_directory(tmp_path: Any) -> None:
    path = save_tiny(tmp_path / "m")
    opened = open_generator(str(path), dtype=torch.float32, batch_rows=3)
    assert opened.name == str(path)
    same = HFGenerator(make_tiny_model(), TOKENIZER).sample(PROMPTS[:2], 2, PARAMS, seed=0)
    found = opened.sample(PROMPTS[:2], 2, PARAMS, seed=0)
    assert [[(r.token_ids, r.text) for r in g] for g in found] == [[(r.token_ids, r.text) for r in g] for g in same]
    with pytest.raises(ConfigError, match="no such directory"):
        open_generator(str(tmp_path / "none"))


def test_a_mixture_of_models_samples_token_by_token_from_the_product() -> None:
    """Against a loop without caches, on the same uniforms; a mixture of one is that model."""
    second = sharp_model(seed=1)
    mixture = MixtureModel([(0.7, MODEL), (0.3, second)])
    found = generator(mixture, rows=4).sample(PROMPTS[:3], 3, PARAMS, seed=5)
    for prompt, group in zip(PROMPTS, found, strict=False):
        head = chat.encode_prompt(TOKENIZER, prompt)
        for index, response in enumerate(group):
            uniforms = rng(5, "sample", prompt.id, index).random(PARAMS.max_new_tokens)
            ids, total = list(head), 0.0
            for u in uniforms[: len(response.token_ids or ())]:
                with torch.no_grad():
                    both = [torch.log_softmax(m(input_ids=torch.tensor([ids])).logits[0, -1].double(), -1) for m in
                            (MODEL, second)]  # fmt: skip
                logp = torch.log_softmax(0.7 * both[0] + 0.3 * both[1], -1)
                token = int(torch.searchsorted(logp.exp().cumsum(0), torch.tensor(u)))
                ids.append(token)
                total += float(logp[token])
            assert tuple(ids[len(head) :]) == response.token_ids
            assert response.logprob == pytest.approx(total, abs=1e-3)
    alone = generator(MixtureModel([(1.0, MODEL), (0.0, second)])).sample(PROMPTS, 2, PARAMS, seed=3)
    assert [[r.token_ids for r in g] for g in alone] == [
        [r.token_ids for r in g] for g in generator().sample(PROMPTS, 2, PARAMS, seed=3)
    ]
    with pytest.raises(ValueError, match="sum to 1"):
        MixtureModel([(0.7, MODEL), (0.7, second)])
