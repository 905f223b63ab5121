"""The training loop against torch itself, its invariants, and its resume after a kill."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prefeval.batching import step_batches
from prefeval.checkpoint import clear_state, has_checkpoint
from prefeval.errors import ConfigError, RunError
from prefeval.fit import FitConfig, LossOutput, fit
from prefeval.fit_stop import FitStop
from prefeval.optim import learning_rate_factor, resolve_precision
from prefeval.runs import MetricsLog
from prefeval.seeds import derive_seed

WIDTH = 6


def make_items(count=20):
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(WIDTH, generator=generator), torch.randn((), generator=generator)) for _ in range(count)]


def make_model(dropout=0.0):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def squared(model, items):
    dtype = next(model.parameters()).dtype
    out = model(torch.stack([x for x, _ in items]).to(dtype)).float().squeeze(-1)
    losses = (out - torch.stack([y for _, y in items])) ** 2
    return LossOutput(losses.sum(), len(items), {"mean_output": out.sum().item()})


def run_fit(model, folder, *, items=None, loss=squared, metrics=None, stage="s", cost=lambda item: 10, **options):
    options = {"precision": "fp32", "learning_rate": 1e-2, "batch_size": 8, "epochs": 3.0, **options}
    extra = {k: options.pop(k) for k in ("evaluate", "evaluate_every", "units") if k in options}
    config = FitConfig(**options)
    return fit(
        model, items or make_items(), loss, config, cost=cost, state_dir=folder, stage=stage, metrics=metrics, **extra
    )


def weights(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def losses_of(metrics):
    return [r.values["loss"] for r in metrics.rows() if r.kind == "fit"]


# --- schedules, clipping, AdamW: against closed forms and torch ------------------------------------------------------


def test_schedules_have_their_closed_forms():
    total, warmup, floor = 12, 3, 0.1
    for step in range(warmup):
        for schedule in ("constant", "linear", "cosine"):
            assert learning_rate_factor(step, total, schedule, warmup, floor) == pytest.approx((step + 1) / 4)
    for step in range(warmup, total):
        x = (step - warmup) / 9
        assert learning_rate_factor(step, total, "constant", warmup, floor) == 1.0
        assert learning_rate_factor(step, total, "linear", warmup, floor) == pytest.approx(1 - 0.9 * x)
        cosine = 0.1 + 0.9 * math.cos(math.pi * x / 2) ** 2
        assert learning_rate_factor(step, total, "cosine", warmup, floor) == pytest.approx(cosine)
    assert learning_rate_factor(0, 1, "cosine", 0) == 1.0
    assert learning_rate_factor(4, 5, "linear", 5) == pytest.approx(5 / 6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_agree_with_transformers_after_warm_up(schedule):
    from transformers import get_scheduler

    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(schedule, optimiser, num_warmup_steps=2, num_training_steps=10)
    for step in range(10):
        if step >= 2:
            assert learning_rate_factor(step, 10, schedule, 2) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_a_fit_is_torch_adamw_with_torch_clipping(tmp_path):
    items, metrics = make_items(), MetricsLog(tmp_path / "metrics.jsonl")
    options = {"weight_decay": 0.1, "max_grad_norm": 0.5, "betas": (0.8, 0.95), "eps": 1e-6, "warmup_ratio": 0.2}
    model, plain = make_model(), make_model()
    result = run_fit(model, tmp_path / "fit", metrics=metrics, schedule="linear", **options)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, fused=False)
    norms, losses, rates = [], [], []
    for step, chosen in enumerate(step_batches(20, 8, 3.0, derive_seed("fit", 0, "s"))):
        adam.zero_grad()
        loss = squared(plain, [items[i] for i in chosen]).loss_sum / len(chosen)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item())
        rates.append(1e-2 * ((step + 1) / 3 if step < 2 else 1 - (step - 2) / 7))
        for group in adam.param_groups:
            group["lr"] = rates[-1]
        adam.step()
        losses.append(loss.item())
    rows = metrics.rows()
    assert max(norms) > 0.5  # clipping took place
    assert [r.values["grad_norm"] for r in rows] == pytest.approx(norms, rel=1e-5)
    assert losses_of(metrics) == pytest.approx(losses, rel=1e-5)
    assert [r.values["learning_rate"] for r in rows] == pytest.approx(rates)
    assert [r.step for r in rows] == list(range(1, 10))
    assert rows[2].values["epoch"] == 1.0
    assert result.steps == 9
    assert result.tokens == 3 * 20 * 10
    for name, value in weights(plain).items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


# --- invariants ------------------------------------------------------------------------------------------------------


def test_splitting_a_step_does_not_change_the_trajectory(tmp_path):
    items = [(*item, 3 + i % 5) for i, item in enumerate(make_items())]

    def weighted(model, chosen):
        out = squared(model, [(x, y) for x, y, _ in chosen])
        share = torch.tensor([float(n) for _, _, n in chosen])
        residual = model(torch.stack([x for x, _, _ in chosen])).squeeze(-1) - torch.stack([y for _, y, _ in chosen])
        return LossOutput((share * residual**2).sum(), float(share.sum()), out.metrics)

    got = []
    for tokens in (1, 17, 10**6):
        model, metrics = make_model(), MetricsLog(tmp_path / f"{tokens}.jsonl")
        run_fit(
            model,
            tmp_path / str(tokens),
            items=items,
            loss=weighted,
            metrics=metrics,
            batch_tokens=tokens,
            units=lambda item: float(item[2]),
            cost=lambda item: item[2],
        )
        got.append((losses_of(metrics), weights(model)))
    for losses, values in got[1:]:
        assert losses == pytest.approx(got[0][0], rel=1e-6)
        for name, value in values.items():
            torch.testing.assert_close(value, got[0][1][name], atol=1e-6, rtol=0)


def test_bf16_follows_fp32_at_a_learning_rate_that_plain_bf16_loses(tmp_path):
    def start():
        model = make_model()
        with torch.no_grad():
            for p in model.parameters():  # magnitudes in [0.5, 1): one bf16 step there is 2^-8
                p.copy_((0.5 + 0.49 * torch.rand_like(p)).mul(torch.randn_like(p).sign()).bfloat16())
        return model

    exact, rounded, naive = start(), start(), start().bfloat16()
    before = weights(exact)
    options = {"learning_rate": 1e-5, "schedule": "constant", "warmup_ratio": 0.0, "epochs": 10.0}
    run_fit(exact, tmp_path / "a", **options)
    result = run_fit(rounded, tmp_path / "b", precision="bf16", **options)
    adam, items = torch.optim.AdamW(naive.parameters(), lr=1e-5, weight_decay=0.0), make_items()
    for chosen in step_batches(20, 8, 10.0, derive_seed("fit", 0, "s")):
        adam.zero_grad()
        (squared(naive, [items[i] for i in chosen]).loss_sum / len(chosen)).backward()
        adam.step()
    assert all(torch.equal(v.float(), before[k]) for k, v in weights(naive).items())  # it never moved
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    assert result.masters is not None
    moved = torch.cat([(result.masters[k] - before[k]).flatten() for k in before])
    wanted = torch.cat([(weights(exact)[k] - before[k]).flatten() for k in before])
    assert wanted.abs().max() > 1e-4
    assert ((moved - wanted).norm() / wanted.norm()).item() < 0.1
    masters = dict(result.masters)
    for name, value in weights(rounded).items():
        assert torch.equal(value, masters[name].bfloat16())
    result.export_masters(rounded)
    assert all(torch.equal(v, masters[k]) for k, v in weights(rounded).items())
    assert "masters" not in result.summary()


def test_bf16_sums_gradients_over_micro_batches_in_fp32(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    metrics = MetricsLog(tmp_path / "m.jsonl")
    # d/dw of w * x is x: 1 and 255 times 2^-9 would stay 1 in a bf16 sum
    items = [1.0] + [2.0**-9] * 255

    def linear(model, chosen):
        x = torch.tensor(chosen, dtype=torch.bfloat16)[:, None]
        return LossOutput(model(x).float().sum(), len(chosen))

    run_fit(
        model, tmp_path / "f", items=items, loss=linear, metrics=metrics, precision="bf16", batch_size=256,
        batch_tokens=1, epochs=1.0,
    )  # fmt: skip
    assert metrics.rows()[0].values["grad_norm"] == pytest.approx((1 + 255 / 512) / 256, rel=1e-6)


def test_autocast_keeps_fp32_weights_and_computes_in_bf16(tmp_path):
    seen = []

    def spying(model, chosen):
        seen.append(model(torch.stack([x for x, _ in chosen])).dtype)
        return squared(model, chosen)

    model = make_model()
    assert run_fit(model, tmp_path / "f", loss=spying, precision="bf16_autocast").masters is None
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_frozen_parameters_buffers_modes_and_random_state_stay(tmp_path):
    model = make_model(dropout=0.5)
    model.register_buffer("table", torch.full((3,), 1.001))
    model[0].requires_grad_(False)
    model.train()
    model[1].eval()
    frozen, torch_state = model[0].weight.detach().clone(), torch.get_rng_state()

    def evaluate(module):
        torch.rand(5)
        module.eval()
        assert not torch.is_grad_enabled()
        return {"accuracy": 0.25}

    result = run_fit(model, tmp_path / "f", precision="bf16", evaluate=evaluate, evaluate_every=2, checkpoint_every=1)
    assert torch.equal(model[0].weight, frozen.bfloat16())
    assert model.table.dtype == torch.float32
    assert model.training
    assert not model[1].training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(p.grad is None for p in model.parameters())
    assert result.evaluation == {"accuracy": 0.25}
    saved = [p for p in (tmp_path / "f").iterdir() if p.suffix == ".safetensors"]
    assert not any("0.weight" in name for name in load_file(saved[0]))


def test_unused_parameters_do_not_move_and_tied_ones_move_together(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(WIDTH, WIDTH, bias=False)
            self.b = nn.Linear(WIDTH, WIDTH, bias=False)
            self.b.weight = self.a.weight
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            return self.b(self.a(x)).sum(-1, keepdim=True)

    for precision in ("fp32", "bf16"):
        model = Tied()
        start = model.unused.weight.detach().clone(), model.a.weight.detach().clone()
        run_fit(model, tmp_path / precision, precision=precision)
        assert torch.equal(model.unused.weight.float(), start[0].to(model.unused.weight.dtype).float())
        assert model.a.weight is model.b.weight
        assert not torch.equal(model.a.weight.float(), start[1])


def test_gradient_checkpointing_gives_the_same_weights_without_waking_dropout(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        attention_dropout=0.5, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    items = [[(i + j) % 11 for j in range(6)] for i in range(8)]
    modes = []

    def language_loss(model, chosen):
        layer = model.model.layers[0]
        modes.append((layer.gradient_checkpointing and layer.training, layer.self_attn.training))
        ids = torch.tensor(chosen)
        logits = model(ids, use_cache=False).logits.float()
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        return LossOutput(loss, len(chosen) * 5)

    got = []
    for wanted in (False, True):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        folder, units = tmp_path / str(wanted), lambda item: 5.0
        run_fit(model, folder, items=items, loss=language_loss, gradient_checkpointing=wanted, units=units)
        got.append(weights(model))
        assert modes[-1] == (wanted, False)
        assert not model.model.layers[0].training
        assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    for name, value in got[0].items():
        torch.testing.assert_close(value, got[1][name], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        run_fit(make_model(), tmp_path / "no", gradient_checkpointing=True)


def test_log_every_averages_the_steps_in_between(tmp_path):
    logs = [MetricsLog(tmp_path / f"{n}.jsonl") for n in (1, 4)]
    for log, every in zip(logs, (1, 4), strict=True):
        run_fit(make_model(), tmp_path / f"f{every}", metrics=log, log_every=every)
    each, fourth = (log.rows() for log in logs)
    assert [r.step for r in fourth] == [4, 8, 9]
    sizes = [8, 8, 4, 8]
    for name in ("loss", "mean_output"):
        mean = sum(n * r.values[name] for n, r in zip(sizes, each[:4], strict=True)) / sum(sizes)
        assert fourth[0].values[name] == pytest.approx(mean, rel=1e-6)


def test_max_steps_ends_the_fit_and_its_schedule(tmp_path):
    metrics = MetricsLog(tmp_path / "m.jsonl")
    result = run_fit(make_model(), tmp_path / "f", max_steps=4, schedule="linear", warmup_ratio=0.0, metrics=metrics)
    assert (result.steps, result.stopped_early) == (4, True)
    assert metrics.rows()[-1].values["learning_rate"] == pytest.approx(1e-2 / 4)
    assert not run_fit(make_model(), tmp_path / "g", max_steps=9).stopped_early


# --- kills -----------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_at(call):
    calls = 0

    def loss(model, items):
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return squared(model, items)

    return loss


def comparable(metrics):
    timing = ("tokens_per_second",)
    return [
        (r.kind, r.stage, r.step, {k: v for k, v in r.values.items() if k not in timing})
        for r in metrics.rows()
    ]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_autocast"])
@pytest.mark.parametrize("tokens", [25, 10**6])
def test_a_killed_fit_ends_with_the_same_bits(tmp_path, precision, tokens):
    def evaluate(module):
        return {"noise": torch.rand(()).item(), "bias": module[3].bias.float().sum().item()}

    options = {
        "precision": precision, "batch_tokens": tokens, "checkpoint_every": 2, "log_every": 3, "evaluate": evaluate,
        "evaluate_every": 3, "weight_decay": 0.1,
    }  # fmt: skip
    whole, log = make_model(0.3).train(), MetricsLog(tmp_path / "whole.jsonl")
    want = run_fit(whole, tmp_path / "whole", metrics=log, **options)
    resumed_log = MetricsLog(tmp_path / "resumed.jsonl")
    parts = 4 if tokens == 25 else 1  # micro-batches of a step of eight
    for call in (1, 2 * parts, 3 * parts):  # before any checkpoint, in the middle of a step, after the resumed ones
        torch.manual_seed(call)  # what was drawn before must not matter
        model = make_model(0.3).train()
        with pytest.raises(Killed):
            run_fit(model, tmp_path / "resumed", metrics=resumed_log, loss=killed_at(call), **options)
    assert has_checkpoint(tmp_path / "resumed")
    model = make_model(0.3).train()
    with torch.no_grad():
        model[0].weight.add_(1.0)  # the state, not the model handed in, decides
    got = run_fit(model, tmp_path / "resumed", metrics=resumed_log, **options)
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(model).items())
    if precision == "bf16":
        assert want.masters is not None
        assert got.masters is not None
        assert all(torch.equal(v, want.masters[k]) for k, v in got.masters.items())
    assert comparable(resumed_log) == comparable(log)
    steps = [r.step for r in resumed_log.rows() if r.kind == "fit"]
    assert steps == [3, 6, 9]
    assert (got.steps, got.tokens, got.evaluation) == (want.steps, want.tokens, want.evaluation)
    assert {p.suffix for p in (tmp_path / "resumed").iterdir()} == {".json", ".safetensors"}


def test_a_finished_fit_is_not_trained_again_until_its_state_is_cleared(tmp_path):
    metrics = MetricsLog(tmp_path / "m.jsonl")
    model = make_model()
    first = run_fit(model, tmp_path / "f", metrics=metrics)
    again = make_model()
    second = run_fit(again, tmp_path / "f", metrics=metrics, loss=killed_at(1))
    assert all(torch.equal(v, weights(model)[k]) for k, v in weights(again).items())
    assert second.summary() == first.summary()
    assert [r.step for r in metrics.rows()] == list(range(1, 10))
    clear_state(tmp_path / "f")
    with pytest.raises(Killed):
        run_fit(make_model(), tmp_path / "f", loss=killed_at(1))


def test_ctrl_c_saves_first(tmp_path):
    calls = 0

    def interrupted(model, items):
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return squared(model, items)

    before = signal.getsignal(signal.SIGINT)
    whole = make_model()
    run_fit(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_fit(make_model(), tmp_path / "f", loss=interrupted)
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((tmp_path / "f" / "state.json").read_text())["scalars"]["step"] == 4
    model = make_model()
    run_fit(model, tmp_path / "f")
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(model).items())


def test_slow_writes_are_put_off_unless_time_is_up(tmp_path, monkeypatch):
    from prefeval import fit_pace

    monkeypatch.setattr(fit_pace, "_DISK", 1e-6)  # a first guess of hours for one write
    run_fit(make_model(), tmp_path / "a", checkpoint_every=1)
    assert not has_checkpoint(tmp_path / "a")
    run_fit(make_model(), tmp_path / "b", checkpoint_every=0, checkpoint_seconds=1e-9)
    assert has_checkpoint(tmp_path / "b")


# --- early stop ------------------------------------------------------------------------------------------------------


def drifting(call=0):
    """The loss `squared` with a metric `kl`: how far the weights are from where they began; killed at `call`."""
    begun, calls = make_model(), 0

    def loss(model, items):
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        out = squared(model, items)
        pairs = zip(model.parameters(), begun.parameters(), strict=True)
        out.metrics["kl"] = len(items) * sum((a - b).detach().abs().sum().item() for a, b in pairs)
        return out

    return loss


def test_a_fit_ends_where_it_has_moved_far_enough_also_after_a_kill(tmp_path):
    path = MetricsLog(tmp_path / "path.jsonl")
    run_fit(make_model(), tmp_path / "path", loss=drifting(), metrics=path)
    moved = [r.values["kl"] for r in path.rows()]
    means = [sum(moved[i - 1 : i + 1]) / 2 for i in range(1, len(moved))]
    limit = means[3] - 1e-9 * abs(means[3])
    assert max(means[:3]) < limit  # so the first two steps whose mean is above are the fourth and the fifth
    options = {"stop": FitStop(kl=limit, window=2), "checkpoint_every": 2, "log_every": 4}
    whole, log = make_model(), MetricsLog(tmp_path / "whole.jsonl")
    result = run_fit(whole, tmp_path / "whole", loss=drifting(), metrics=log, **options)
    assert (result.steps, result.stopped_early) == (5, True)
    assert "over 2 steps is above" in result.stop_reason
    assert [r.step for r in log.rows()] == [4, 5]  # the last step is logged, full row or not
    again, resumed = make_model(), MetricsLog(tmp_path / "resumed.jsonl")
    for call in (3, 3):  # at the third step, then at the fifth: the window lies across a checkpoint
        with pytest.raises(Killed):
            run_fit(make_model(), tmp_path / "resumed", loss=drifting(call), metrics=resumed, **options)
    assert run_fit(again, tmp_path / "resumed", loss=drifting(), metrics=resumed, **options).steps == 5
    assert comparable(resumed) == comparable(log)
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(again).items())
    assert run_fit(make_model(), tmp_path / "resumed", loss=drifting(1), **options).stop_reason == result.stop_reason


def test_a_fit_ends_when_held_out_items_stop_gaining_also_after_a_kill(tmp_path):
    """Evaluations 5, 4, 4.5, 4, 1 and two of patience: over after the fourth."""

    def held_out(module):
        seen.append(0)
        return {"loss": (5.0, 4.0, 4.5, 4.0, 1.0)[len(seen) - 1]}

    options = {"stop": FitStop(patience=2), "evaluate": held_out, "evaluate_every": 2, "checkpoint_every": 2}
    seen: list[int] = []
    result = run_fit(make_model(), tmp_path / "whole", **options, epochs=5.0)
    assert (result.steps, len(seen)) == (8, 4)
    assert result.stop_reason == "2 evaluations without a loss below 4"
    seen.clear()
    with pytest.raises(Killed):  # in the seventh step: three evaluations are behind, one without a gain
        run_fit(make_model(), tmp_path / "resumed", **options, epochs=5.0, loss=killed_at(7))
    assert run_fit(make_model(), tmp_path / "resumed", **options, epochs=5.0).steps == 8


def test_signs_that_nothing_reports_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"fit\.stop\.kl: the loss reports no 'kl'"):
        run_fit(make_model(), tmp_path / "a", stop=FitStop(kl=1.0))
    with pytest.raises(ConfigError, match="needs held-out items"):
        run_fit(make_model(), tmp_path / "b", stop=FitStop(patience=1))
    with pytest.raises(ConfigError, match=r"reports no 'loss'; did you mean 'losses'"):
        run_fit(make_model(), tmp_path / "c", stop=FitStop(patience=1), evaluate=lambda module: {"losses": 1.0})
    with pytest.raises(ConfigError, match=r"fit\.stop"):
        FitStop(window=0)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_another_fit_in_the_state_directory_is_refused(tmp_path):
    with pytest.raises(Killed):
        run_fit(make_model(), tmp_path / "f", loss=killed_at(5), checkpoint_every=1)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.01 there, 0.5 now"):
        run_fit(make_model(), tmp_path / "f", learning_rate=0.5)
    wider = nn.Sequential(nn.Linear(WIDTH, 9), nn.Linear(9, 1))
    with pytest.raises(ConfigError, match="model: "):
        run_fit(wider, tmp_path / "f")
    with pytest.raises(ConfigError, match="items_hash: "):
        run_fit(make_model(), tmp_path / "f", cost=lambda item: 11)
    free = {"batch_tokens": 16, "log_every": 2, "checkpoint_every": 7, "checkpoint_seconds": 1.0}
    assert run_fit(make_model(), tmp_path / "f", **free).steps == 9


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_fit_and_names_the_items(tmp_path, kind):
    items = make_items()
    steps = step_batches(20, 8, 3.0, derive_seed("fit", 0, "s"))
    poisoned = steps[1][2]

    def poison(model, chosen):
        out = squared(model, chosen)
        if any(item is items[poisoned] for item in chosen):
            if kind == "loss":
                return LossOutput(out.loss_sum * float("nan"), out.weight)
            next(model.parameters()).register_hook(lambda g: g * float("inf"))
            return squared(model, chosen)
        return out

    model = make_model()
    with pytest.raises(RunError, match="step 2 of 9") as caught:
        run_fit(model, tmp_path / "f", items=items, loss=poison, batch_tokens=10, checkpoint_every=1)
    note = json.loads((tmp_path / "f" / "bad_batch.json").read_text())
    assert note["indices"] == ([poisoned] if kind == "loss" else steps[1])
    assert note["step_indices"] == steps[1]
    assert "bad_batch.json" in str(caught.value)
    assert "Step 1 is kept" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not any(p.grad is not None for p in model.parameters())


def test_memory_that_runs_out_is_explained(tmp_path):
    def hungry(model, chosen):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(RunError, match=r"8 items of up to 10 tokens; lower fit.batch_tokens"):
        run_fit(make_model(), tmp_path / "f", loss=hungry)


def test_units_that_disagree_are_a_bug(tmp_path):
    with pytest.raises(ValueError, match=r"counts 8 units where `units` gives 16.0"):
        run_fit(make_model(), tmp_path / "f", units=lambda item: 2.0)


def test_nothing_to_train_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no items"):
        fit(make_model(), [], squared, FitConfig(), cost=lambda item: 1, state_dir=tmp_path, stage="s")
    with pytest.raises(ConfigError, match="no trainable parameter"):
        run_fit(make_model().requires_grad_(False), tmp_path / "f")
    with pytest.raises(ConfigError, match="tracker 'nonesuch' is not installed"):
        run_fit(make_model(), tmp_path / "f", report_to=("nonesuch",))


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0.0}, {"epochs": float("nan")}, {"max_steps": 0}, {"learning_rate": -1.0}, {"schedule": "step"},
        {"warmup_ratio": 1.1}, {"betas": (0.9, 1.0)}, {"batch_size": 0}, {"precision": "fp8"}, {"log_every": 0},
    ],
)  # fmt: skip
def test_a_config_out_of_range_is_refused_by_name(bad):
    with pytest.raises(ConfigError, match=f"fit.{next(iter(bad))}"):
        FitConfig(**bad)


def test_auto_precision_is_resolved():
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert resolve_precision("auto", torch.device("cpu")) in ("bf16", "fp32")


def test_the_config_is_importable_without_torch():
    code = "import sys, prefeval.fit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


# --- several processes -----------------------------------------------------------------------------------------------

WORKER = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_fit import *
from prefeval.checkpoint import write_tensors
model = make_model()
if int(os.environ["RANK"]):
    with torch.no_grad():
        model[0].weight.add_(1.0)  # the first process decides
folder = Path({folder!r})
log = MetricsLog(folder / "metrics.jsonl")
calls = []
def dies_at_step_5(module):
    calls.append(0)
    if len(calls) == 5:  # on every process: a loss is not called equally often on all of them
        raise Killed
    return {{}}
options = dict(metrics=log, checkpoint_every=2, batch_tokens=25, items=make_items(17))
try:
    run_fit(model, folder / "fit", evaluate=dies_at_step_5, evaluate_every=1, **options)
except Killed:
    pass
run_fit(model, folder / "fit", **options)
write_tensors(folder / f"weights{{os.environ['RANK']}}.safetensors", model.state_dict())
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    code = WORKER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    env = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(20000 + os.getpid() % 20000), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in (0, 1)
    ]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    model, metrics = make_model(), MetricsLog(tmp_path / "one.jsonl")
    run_fit(model, tmp_path / "one", metrics=metrics, items=make_items(17))
    for rank in (0, 1):
        for name, value in load_file(tmp_path / f"weights{rank}.safetensors").items():
            torch.testing.assert_close(value, model.state_dict()[name], atol=1e-6, rtol=0)
    together = MetricsLog(tmp_path / "metrics.jsonl")
    assert losses_of(together) == pytest.approx(losses_of(metrics), rel=1e-6)
    assert [r.step for r in together.rows() if r.kind == "fit"] == list(range(1, 10))
