"""The processes of one training job, through accelerate: device, rank, sums, and optional experiment trackers.

One process is the main case and costs nothing here. Models are not wrapped: losses call models in their own ways, so
gradients are summed once a step instead.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from prefeval.errors import ConfigError
from prefeval.log import logger


class Processes:
    """`device`, `rank` and `count` of this job. Raises ConfigError for a tracker that is unknown or not installed."""

    def __init__(self, report_to: Sequence[str] = (), folder: Path | None = None) -> None:
        from accelerate import Accelerator

        _check_trackers(report_to)
        # always "no": autocast is ours, and accelerate allows one setting per interpreter
        self._accelerator = Accelerator(mixed_precision="no", log_with=list(report_to) or None, project_dir=folder)
        self._reporting = bool(report_to)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, data: Any) -> list[Any]:
        """The JSON-able `data` of every process, in the order of rank."""
        if self.count == 1:
            return [data]
        raw = torch.frombuffer(bytearray(json.dumps(data).encode("utf-8")), dtype=torch.uint8).to(self.device)
        sizes = self.gather_tensor(torch.tensor([len(raw)], device=self.device)).flatten().tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: len(raw)] = raw
        rows = self.gather_tensor(padded).cpu()
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """(...) of each process -> (count, ...), on this process's device."""
        if self.count == 1:
            return tensor[None]
        rows: Tensor = self._accelerator.gather(tensor.to(self.device)[None].contiguous())
        return rows

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def start_trackers(self, config: Mapping[str, Any]) -> None:
        if self._reporting:
            self._accelerator.init_trackers("prefeval", config={k: str(v) for k, v in config.items()})

    def report(self, values: Mapping[str, float], step: int) -> None:
        if self._reporting:
            self._accelerator.log(dict(values), step=step)

    def finish_trackers(self) -> None:
        # not accelerate's end_training(): that also ends the process group, which the next round needs
        if self._reporting and self.is_main:
            for tracker in self._accelerator.trackers:
                tracker.finish()


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Hold back the first Ctrl-C: the list that is yielded becomes non-empty. A second one interrupts at once."""
    hits: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield hits
        return

    def note(number: int, frame: FrameType | None) -> None:
        if hits:
            raise KeyboardInterrupt
        hits.append(number)
        logger.info("stopping after this step (Ctrl-C again to stop at once, without saving)")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield hits
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def _check_trackers(report_to: Sequence[str]) -> None:
    from accelerate.tracking import get_available_trackers

    if report_to:
        installed = [str(getattr(t, "value", t)) for t in get_available_trackers()]
        for name in report_to:
            if name not in installed:
                have = ", ".join(installed) or "none"
                raise ConfigError(f"report_to: the tracker '{name}' is not installed (installed: {have})")
