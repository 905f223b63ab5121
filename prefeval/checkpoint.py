"""Training state on disk: readable after a kill at any moment, without pickle.

Layout of a state directory: `state.json` (scalars, identity and the name of the tensor file) beside one of
`state-a.safetensors` and `state-b.safetensors`. A save fills the slot that is not in use, fsyncs it, and only then
replaces state.json; the old slot is deleted last. Whatever the moment of a kill, state.json names a complete file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefeval.errors import ConfigError, DataError, RunError
from prefeval.files import read_json, sync_directory, write_json

_FORMAT = 1
_SLOTS = ("state-a.safetensors", "state-b.safetensors")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """What `save_checkpoint` was given. Floats in `scalars` come back exactly; NaN and infinities come back as None."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


def save_checkpoint(
    state_dir: Path, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any], *, identity: Mapping[str, Any]
) -> None:
    """Write the state, replacing the one before. `identity` says whose it is; `load_checkpoint` compares it.

    Tensors go to the file one at a time, straight from their memory: no second copy of the state is made.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(state_dir)
    used = _current_slot(state_dir)
    slot = _SLOTS[1] if used == _SLOTS[0] else _SLOTS[0]
    write_tensors(state_dir / slot, tensors)
    sync_directory(state_dir)
    head = {"format": _FORMAT, "tensors": slot, "identity": dict(identity), "scalars": dict(scalars)}
    write_json(state_dir / "state.json", head)
    for name in _SLOTS:
        if name != slot:
            (state_dir / name).unlink(missing_ok=True)


def load_checkpoint(
    state_dir: Path, *, identity: Mapping[str, Any], device: torch.device | None = None
) -> Checkpoint | None:
    """The saved state, read to `device` (None = CPU), or None when there is none.

    Raises ConfigError when it belongs to another configuration or model, naming what differs; RunError when its
    files are damaged.
    """
    from safetensors import SafetensorError, safe_open

    head = _read_head(state_dir)
    if head is None:
        return None
    _refuse_other(state_dir, head["identity"], json.loads(json.dumps(dict(identity))))
    # safetensors knows no "cpu:0", which is what accelerate calls the CPU of a job of several processes
    where = "cpu" if device is None or device.type == "cpu" else str(device)
    try:
        with safe_open(state_dir / head["tensors"], framework="pt", device=where) as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise RunError(_damaged(state_dir, str(error))) from None
    return Checkpoint(tensors, head["scalars"])


def has_checkpoint(state_dir: Path) -> bool:
    return (state_dir / "state.json").exists()


def clear_state(state_dir: Path) -> None:
    """Delete the training state (and the note on a bad batch); the directory too when nothing else is in it."""
    if not state_dir.is_dir():
        return
    # state.json first: a kill in between must not leave it naming a file that is gone
    (state_dir / "state.json").unlink(missing_ok=True)
    _remove_leftovers(state_dir)
    for name in (*_SLOTS, "bad_batch.json"):
        (state_dir / name).unlink(missing_ok=True)
    if not any(state_dir.iterdir()):
        state_dir.rmdir()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file tensor by tensor (8-byte header length, JSON header, raw little-endian data); fsynced.

    The package's own `save_file` first turns every tensor into a `bytes` object, which doubles the memory.
    """
    # widest types first keeps every offset aligned to its element size
    names = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"tensor {name}: {tensor.dtype} cannot be written to a checkpoint")
        size = tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = tensors[name].detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            out.write(data.numpy().data)
        out.flush()
        os.fsync(out.fileno())


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, of the CPU and of `device`: name -> (n,) uint8."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type in ("cuda", "xpu"):
        states["rng.device"] = torch.get_device_module(device).get_rng_state(device)
    elif device.type == "mps":
        states["rng.device"] = torch.mps.get_rng_state()
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `generator_states` gave."""
    # copies: torch reads a state from the start of its storage, so a row of a stack would be the wrong bytes
    states = {name: state.cpu().clone() for name, state in states.items()}
    torch.set_rng_state(states["rng.cpu"])
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device).set_rng_state(states["rng.device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["rng.device"])


def _read_head(state_dir: Path) -> dict[str, Any] | None:
    if not has_checkpoint(state_dir):
        return None
    try:
        head = read_json(state_dir / "state.json")
    except DataError as error:
        raise RunError(_damaged(state_dir, str(error))) from None
    if not isinstance(head, dict) or head.get("format") != _FORMAT or head.get("tensors") not in _SLOTS:
        raise RunError(_damaged(state_dir, "state.json is not one of ours"))
    return head


def _current_slot(state_dir: Path) -> str | None:
    """The slot in use; a damaged state.json protects nothing, so it counts as none."""
    try:
        head = _read_head(state_dir)
    except RunError:
        return None
    return None if head is None else str(head["tensors"])


def _refuse_other(state_dir: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    names = [n for n in (*saved, *(n for n in given if n not in saved)) if saved.get(n) != given.get(n)]
    if names:
        changes = "; ".join(f"{n}: {saved.get(n)!r} there, {given.get(n)!r} now" for n in names)
        raise ConfigError(
            f"{state_dir}: the training state in it belongs to another configuration or model ({changes}). "
            "Use the same configuration to go on, or delete that directory to start this fit again."
        )


def _damaged(state_dir: Path, why: str) -> str:
    return f"{state_dir}: the training state cannot be read ({why}); delete that directory to start this fit again"


def _remove_leftovers(state_dir: Path) -> None:
    """Temporary files of a process that was killed while it wrote them."""
    for path in state_dir.glob(".*.tmp"):
        path.unlink(missing_ok=True)
