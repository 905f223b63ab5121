"""What `prefeval doctor` looks at in a preference model: a lost head, another template, padding in scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefeval.doctor.findings import Finding
from prefeval.errors import ConfigError
from prefeval.models import load_config, resolve
from prefeval.types import Prompt

if TYPE_CHECKING:
    from reward_models.modeling import PreferenceModel

_PROMPTS = (Prompt.from_text("Name a colour."), Prompt.from_text("Why is the sky blue? Explain it to a child."))
_REPLIES = ("Red.", "Because the air scatters blue light more than red light, and so it comes from everywhere.")
_BOUND = 1e-4  # of the largest output: float32 rounding between batch shapes


def examine_preference_model(spec: str) -> Iterator[Finding]:
    """Findings for a preference or reward model; none for anything else (a base model or a policy)."""
    from reward_models.loading import is_saved
    from reward_models.modeling import PreferenceModel

    ours = is_saved(Path(spec))
    if not ours and not _is_classifier(spec):
        return
    try:
        model = PreferenceModel.from_pretrained(spec) if ours else PreferenceModel.from_stock(spec)
    except ConfigError as error:
        yield Finding("problem", "preference model", str(error))
        return
    head = model.head
    size = f"{head.width()} outputs" if head.width() > 1 else "1 output"
    extra = ", scales read from the prompt" if head.prompt_scales else ", gated" if head.gate.hidden else ""
    extra += f", ties by {model.ties['rule']} {model.ties['value']:.4g}" if model.ties else ""
    limit = model.encoder.max_length
    yield Finding("ok", "head", f"{head.kind}, {size}, tau {head.tau:g}{extra}, at most {limit} tokens")
    if not ours:
        text = "no template hash is kept in this checkpoint: nothing tells whether it is scored as it was trained"
        yield Finding("note", "template", text)
    yield _neighbours(model)


def _is_classifier(spec: str) -> bool:
    try:
        architectures = load_config(spec).architectures or []
    except ConfigError:
        return False
    return resolve(spec).is_local and any(str(a).endswith("ForSequenceClassification") for a in architectures)


def _neighbours(model: PreferenceModel) -> Finding:
    """Scores alone against scores beside a longer text: padding that leaks shows here."""
    import torch

    from reward_models.forward import run_ragged

    texts = [ids for prompt in _PROMPTS for ids in model.encode(prompt, list(_REPLIES))]
    model = model.float().eval()
    with torch.inference_mode():
        layout = model.layout(sum(map(len, texts)) * len(texts))
        together = run_ragged(model, texts, layout)
        alone = torch.cat([run_ragged(model, [ids], layout) for ids in texts])
    scale = float(together.abs().max())
    change = float((together - alone).abs().max()) / max(scale, 1e-12)
    text = f"a response's score changes by {change:.0e} of its size beside longer ones"
    if not torch.isfinite(together).all():
        return Finding("problem", "scores", "some scores are not finite", "the weights are broken")
    if change > _BOUND:
        return Finding("problem", "scores", text, "padding is read as text: check pad_token_id in config.json")
    return Finding("ok", "scores", text)
