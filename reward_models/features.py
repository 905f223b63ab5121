"""Hidden states on disk: a frozen backbone reads each sequence once, for every head that is trained on it afterwards.

A folder holds one subfolder a backbone (named by a hash of its weights and of the precision it ran in) with shards of
safetensors: `keys` (n, 32) bytes of SHA-256 over token ids, `rows` (n, hidden) float32. A shard is written whole or not
at all, so an interrupted pass goes on with the shard it was at, and gives the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prefeval.checkpoint import write_tensors
from prefeval.files import sync_directory
from prefeval.log import logger, progress
from reward_models.forward import Encoded
from reward_models.modeling import PreferenceModel

_SHARD_TOKENS = 400_000  # about two minutes of a small model on two CPU cores
_BATCH_TOKENS = 16384  # padded tokens of a batch


def pooled_states(
    model: PreferenceModel, sequences: Sequence[Encoded], folder: Path, *, half: bool = False
) -> dict[Encoded, Tensor]:
    """Hidden states (hidden,) of the pooled tokens, float32 on the CPU, by token ids; read from `folder` where known.

    `half` runs the backbone under bfloat16 autocast. Then a state depends a little on the shape of its
    batch: it is exactly reproducible for the same set of sequences, to about two decimals for another one.
    """
    wanted = sorted(set(sequences), key=lambda ids: (len(ids), ids))
    keys = {ids: sequence_key(ids) for ids in wanted}
    place = folder / fingerprint(model, half)
    known = _read_shards(place)
    found = {ids: known[key] for ids, key in keys.items() if key in known}
    todo = sum(len(ids) for ids in wanted if ids not in found)
    if found:
        logger.info("hidden states: %d of %d sequences are there already", len(found), len(wanted))
    if not todo:
        return found
    fast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half)
    with fast, progress("hidden states (tokens)", todo) as bar:
        for shard in _shards(wanted):
            missing = [ids for ids in shard if ids not in found]
            if not missing:
                continue
            rows = model.read([missing], "features", budget=_BATCH_TOKENS)[0].cpu()
            _write_shard(place, missing, keys, rows)
            found.update(zip(missing, rows, strict=True))
            bar.advance(sum(len(ids) for ids in missing))
    return found


def sequence_key(ids: Encoded) -> bytes:
    """SHA-256 over the token ids: 32 bytes."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()


def fingerprint(model: PreferenceModel, half: bool) -> str:
    """Sixteen hex digits that name what computes the states: weights, precision, and which token is pooled."""
    backbone = model.classifier.base_model
    digest = hashlib.sha256(f"{type(backbone).__name__} {model.pooling} {'bf16' if half else ''}".encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _shards(wanted: Sequence[Encoded]) -> list[list[Encoded]]:
    """The sequences, shortest first, cut by tokens; the same cuts whatever is known already."""
    out: list[list[Encoded]] = [[]]
    tokens = 0
    for ids in wanted:
        if tokens + len(ids) > _SHARD_TOKENS and out[-1]:
            out.append([])
            tokens = 0
        out[-1].append(ids)
        tokens += len(ids)
    return out


def _write_shard(place: Path, shard: Sequence[Encoded], keys: Mapping[Encoded, bytes], rows: Tensor) -> None:
    joined = b"".join(keys[ids] for ids in shard)
    packed = torch.frombuffer(bytearray(joined), dtype=torch.uint8).reshape(-1, 32)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{hashlib.sha256(joined).hexdigest()[:24]}.safetensors"
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    write_tensors(unfinished, {"keys": packed, "rows": rows})
    unfinished.replace(path)
    sync_directory(place)


def _read_shards(place: Path) -> dict[bytes, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    known: dict[bytes, Tensor] = {}
    for path in sorted(place.glob("*.safetensors")):
        try:
            shard = load_file(path)
            keys, rows = shard["keys"].numpy(), shard["rows"]
        except (OSError, SafetensorError, KeyError) as error:
            logger.warning("%s is damaged and is computed again: %s", path, error)
            continue
        known.update((key.tobytes(), row) for key, row in zip(keys, rows, strict=True))
    return known
