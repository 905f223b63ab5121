"""Methods that learn from demonstrations, on a tiny model: kills, what is trained on, what is learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_align_rounds import Killed, config_for, no_fsync, outcome, play, tiny, until_done, weights
from tiny import make_tiny_tokenizer

from alignment.logprobs import frozen_logprobs
from alignment.policy import load_policy
from alignment.samples import read_samples, token_sequences
from prefeval import chat, fit_loop
from prefeval.errors import ConfigError
from prefeval.files import write_jsonl
from prefeval.fit import FitConfig
from prefeval.generate import SamplingParams
from prefeval.generate.hf import HFGenerator
from prefeval.runs import MetricsLog, RunDir
from prefeval.types import Prompt

__all__ = ["no_fsync", "tiny"]  # fixtures


@pytest.mark.slow
@pytest.mark.parametrize("method", ["irft", "sapo"])
def test_a_kill_anywhere_changes_nothing(
    method: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every stage's marker and before every optimiser step; two rounds, with replay."""
    play(config_for(tiny, tmp_path / "unbroken", method, replay=1))
    seen: set[Any] = set()
    stage, advance = RunDir.stage, fit_loop.FitLoop.advance

    def kill(moment: Any) -> None:
        if moment not in seen:
            seen.add(moment)
            raise Killed

    def killed_stage(self: RunDir, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
        def work() -> Any:
            result = fn()
            kill(name)
            return result

        return stage(self, name, inputs, work)

    def killed_advance(self: Any) -> None:
        kill((self.stage, self.step))
        advance(self)

    monkeypatch.setattr(RunDir, "stage", killed_stage)
    monkeypatch.setattr(fit_loop.FitLoop, "advance", killed_advance)
    config = config_for(tiny, tmp_path / "run", method, replay=1)
    assert until_done(config) == len(seen) > 12
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


@pytest.mark.slow
def test_segments_are_rewritten_by_the_moving_average(tiny: Path, tmp_path: Path) -> None:
    """Every reply is the demonstration but for one run of tokens; the reference is half start, half fitted."""
    out = tmp_path / "run"
    play(config_for(tiny, out, "sapo", instruction=""))
    start, fitted = weights(tiny / "model"), weights(out / "rounds" / "001" / "fit-policy")
    torch.testing.assert_close(weights(out / "rounds" / "001" / "fit-ema"), 0.5 * start + 0.5 * fitted)
    tokenizer = make_tiny_tokenizer()
    for group in read_samples(out / "rounds" / "002" / "fit" / "samples.jsonl"):
        (shown,) = group.responses[len(group.own) :]
        answer = f"{group.prompt.text.removeprefix('Say ').removesuffix('.')} is it"
        assert list(shown.token_ids or ()) == chat.encode_completion(tokenizer, answer)[:6]
        for reply in group.own:
            old, new = list(shown.token_ids or ()), list(reply.token_ids or ())
            same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(new))
            assert new[same + 3 :] in ([], old[same + 3 :]) or new == old  # at most three tokens in a row differ


def test_demonstrations_are_learnt_and_no_oracle_is_asked(tiny: Path, tmp_path: Path) -> None:
    """SPIN raises what was shown against what the start says; only the probes ask the oracle."""
    fit = FitConfig(precision="fp32", learning_rate=1e-2, epochs=2, batch_size=3, checkpoint_every=0)
    out = tmp_path / "run"
    config = config_for(tiny, out, "spin", fit=fit, prompts="", instruction="", rounds=1, max_new_tokens=12)
    result = play(config)
    rows = MetricsLog(out / "metrics.jsonl").rows()
    assert {r.stage for r in rows if r.kind == "round"} == {"round1/fit/sample"}
    assert rows[-1].values["spent/comparisons"] == 0
    groups = read_samples(out / "rounds" / "001" / "fit" / "samples.jsonl")
    assert {g.roles for g in groups} == {("policy",) * 4 + ("data",)}
    sequences = [rows for group in token_sequences(make_tiny_tokenizer(), groups, "") for rows in group]
    gained = np.zeros(len(sequences))
    for sign, spec in ((1, result["policy"]), (-1, tiny / "model")):
        gained += sign * np.array(frozen_logprobs(load_policy(str(spec), torch.float32), sequences, 0))
    per_prompt = gained.reshape(len(groups), 5)
    assert np.all(per_prompt[:, 4] > per_prompt[:, :4].mean(axis=1) + 1.0)


def test_a_prompt_without_a_demonstration_is_told_at_once(tiny: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one.jsonl", [{"prompt": "Say fox.", "response": "fox"}])
    config = config_for(tiny, tmp_path / "run", "spin", demonstrations=str(tmp_path / "one.jsonl"))
    with pytest.raises(ConfigError, match=r"one\.jsonl has none for 4 of 5 prompts, such as prompt 'p1'"):
        play(config)
    assert not (tmp_path / "run" / "rounds").exists()


def test_begun_replies_go_on_from_their_ids(tiny: Path) -> None:
    """What follows the given ids is what the model says after prompt and ids."""
    tokenizer, model = make_tiny_tokenizer(), load_policy(str(tiny / "model"), torch.float32)
    generator = HFGenerator(model, tokenizer)
    prompts = [Prompt.from_text("Say fox.", id="a"), Prompt.from_text("Say dog!", id="b")]
    params = SamplingParams(max_new_tokens=3, temperature=0.0)
    begun = [[90, 91, 92], []]
    replies = generator.sample(prompts, 1, params, 0, begun=begun)
    for prompt, ids, (reply,) in zip(prompts, begun, replies, strict=True):
        row = [*chat.encode_prompt(tokenizer, prompt), *ids]
        for token in reply.token_ids or ():
            with torch.no_grad():
                assert token == int(model(torch.tensor([row])).logits[0, -1].argmax())
            row.append(token)
    assert replies[1] == generator.sample(prompts, 1, params, 0)[1]
