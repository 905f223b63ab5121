"""The inside of `prefeval.fit.fit`: one object that holds the state of a fit and takes it a step further."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from prefeval.batching import step_batches, steps_per_epoch, token_batches
from prefeval.checkpoint import generator_states, load_checkpoint, save_checkpoint, set_generator_states
from prefeval.errors import RunError
from prefeval.files import sha256_json, write_json
from prefeval.fit import FitConfig, FitResult, LossOutput
from prefeval.fit_pace import Pace
from prefeval.fit_stop import Stopper
from prefeval.fit_window import Window, add, numbers
from prefeval.log import logger, progress
from prefeval.memory import Releaser
from prefeval.modes import gradient_checkpointing, unchanged
from prefeval.optim import MasterAdamW, learning_rate_factor, resolve_precision
from prefeval.processes import Processes, interruptible
from prefeval.runs import MetricRow, MetricsLog
from prefeval.seeds import derive_seed

T = TypeVar("T")
# what may change between a kill and a resume: none of it is part of the mathematics of the fit
_FREE = ("batch_tokens", "gradient_checkpointing", "log_every", "checkpoint_every", "checkpoint_seconds", "report_to")


class FitLoop(Generic[T]):
    """The state of one fit. `prepared()` sets it up and takes up what is saved, `advance()` is one optimiser step."""

    def __init__(
        self,
        model: nn.Module,
        items: Sequence[T],
        loss_fn: Callable[[nn.Module, Sequence[T]], LossOutput],
        config: FitConfig,
        cost: Callable[[T], int],
        units: Callable[[T], float],
        state_dir: Path,
        stage: str,
        metrics: MetricsLog | None,
    ) -> None:
        self.model, self.items, self.loss_fn, self.config = model, items, loss_fn, config
        self.costs = [int(cost(item)) for item in items]
        self.units = [float(units(item)) for item in items]
        self.state_dir, self.stage = state_dir, stage
        self.processes = Processes(config.report_to, state_dir.parent / "trackers" if config.report_to else None)
        self.metrics = metrics if self.processes.is_main else None
        self.precision = resolve_precision(config.precision, self.processes.device)
        self.seed = derive_seed("fit", config.seed, stage)
        planned = step_batches(len(items), config.batch_size, config.epochs, self.seed)
        self.batches = planned[: config.max_steps]
        self.total, self.stopped_early = len(self.batches), len(self.batches) < len(planned)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.last: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}
        self.window, self.stopper = Window(), Stopper(config.stop, stage)
        self.rate, self.norm = 0.0, 0.0
        self.pace = Pace(config)
        self.release = Releaser(5.0)

    @property
    def is_last(self) -> bool:
        return self.step == self.total or bool(self.stopper.reason)

    @property
    def epoch(self) -> float:
        return self.step / steps_per_epoch(len(self.items), self.config.batch_size)

    def play(
        self, evaluate: Callable[[nn.Module], dict[str, float]] | None, evaluate_every: int, title: str
    ) -> FitResult:
        """All steps that are left."""
        with self.prepared(), interruptible() as interrupts, progress(title, self.total - self.step) as bar:
            while not self.is_last:
                self.advance()
                if evaluate is not None and (self.is_last or (evaluate_every and self.step % evaluate_every == 0)):
                    self.evaluate(evaluate)
                self.checkpoint(stop=bool(interrupts))
                bar.advance(1, f"loss {self.last['loss']:.4g}" if self.last else "")
        if self.stopper.reason:
            logger.info("%s: ended after step %d of %d: %s", self.stage, self.step, self.total, self.stopper.reason)
        return self.result()

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Optimiser, hooks, saved state and random numbers for the loop; all but the weights is put back."""
        device, config = self.processes.device, self.config
        self.model.to(device)
        with unchanged(self.model, device), gradient_checkpointing(self.model, config.gradient_checkpointing):
            self.adam = MasterAdamW(
                self.model,
                precision=self.precision,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
            )
            try:
                self.pace.expect(12 * sum(m.numel() for m in self.adam.masters))
                self.processes.start_trackers(asdict(config))
                torch.manual_seed(derive_seed("torch", self.seed, self.processes.rank))
                self._restore()
                yield
            finally:
                self.adam.close()
                self.processes.finish_trackers()

    def advance(self) -> None:
        """One optimiser step and, when due, its row in the log."""
        start = time.perf_counter()
        chosen = self.batches[self.step]
        total = math.fsum(self.units[i] for i in chosen) or 1.0
        parts = self._parts(chosen)
        outputs = [self._backward(part, total) for part in parts]
        self.processes.sum_(self.adam.gradients())
        norm = self.adam.gradient_norm()
        losses = torch.stack([o.loss_sum for o in outputs]).tolist() if outputs else []
        sums = {"weight": math.fsum(o.weight for o in outputs), "metrics": add([o.metrics for o in outputs])}
        ranks = self.processes.gather({"losses": losses, "parts": parts, **sums})
        self._refuse_bad(chosen, ranks, norm.item())
        rate = self.config.learning_rate * self._rate_factor()
        self.adam.update(rate, norm, self.config.max_grad_norm)
        self.step, self.rate, self.norm = self.step + 1, rate, norm.item()
        if self.processes.device.type == "cpu":  # batches of ever new shapes scatter the heap, which would keep growing
            self.release()
        self._count(chosen, total, ranks, time.perf_counter() - start)
        if self.step % self.config.log_every == 0 or self.is_last:
            self._log()

    def evaluate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        with unchanged(self.model, self.processes.device), torch.no_grad(), self._autocast():
            found = {name: float(value) for name, value in evaluate(self.model).items()}
        self.evaluation = numbers(self.processes.gather(found)[0])
        self.stopper.see_evaluation(self.evaluation)
        if self.is_last and self.window.units:
            self._log()
        if self.metrics is not None:
            self.metrics.add(MetricRow("evaluation", self.stage, self.evaluation, step=self.step))
        self.processes.report({f"{self.stage}/{k}": v for k, v in self.evaluation.items()}, self.step)

    def checkpoint(self, *, stop: bool) -> None:
        """Save when it is due; when any process was told to stop, save and raise KeyboardInterrupt."""
        wishes = self.processes.gather([stop, self.pace.is_due(self.step, self.is_last)])
        stop = any(wish[0] for wish in wishes)
        if stop or wishes[0][1]:
            self._save()
        if stop:
            raise KeyboardInterrupt

    def result(self) -> FitResult:
        masters = None
        if self.adam.split:
            masters = {n: m.detach() for n, m in zip(self.adam.names, self.adam.masters, strict=True)}
        return FitResult(
            self.step,
            self.seconds,
            self.tokens,
            self.last,
            self.evaluation,
            self.stopped_early or bool(self.stopper.reason),
            self.stopper.reason,
            masters=masters,
        )

    def _parts(self, chosen: Sequence[int]) -> list[list[int]]:
        """This process's micro-batches of a step, longest first: memory that will not do fails at once."""
        ranked = sorted(chosen, key=lambda i: (self.costs[i], i))
        local = ranked[self.processes.rank :: self.processes.count]
        batches = token_batches([self.costs[i] for i in local], self.config.batch_tokens)
        return [[local[i] for i in batch] for batch in reversed(batches)]

    def _backward(self, part: Sequence[int], total: float) -> LossOutput:
        try:
            with self._autocast():
                output = self.loss_fn(self.model, [self.items[i] for i in part])
            known = math.fsum(self.units[i] for i in part)
            if abs(output.weight - known) > 1e-6 * max(1.0, abs(known)):
                raise ValueError(f"{self.stage}: the loss counts {output.weight} units where `units` gives {known}")
            (output.loss_sum / total).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            size = f"{len(part)} items of up to {max(self.costs[i] for i in part)} tokens"
            raise RunError(
                f"{self.stage}: out of memory on a micro-batch of {size}; lower fit.batch_tokens (now "
                f"{self.config.batch_tokens}) or set fit.gradient_checkpointing true. {self._kept()}"
            ) from None
        return replace(output, loss_sum=output.loss_sum.detach().float().reshape(()))

    def _refuse_bad(self, chosen: Sequence[int], ranks: Sequence[Mapping[str, Any]], norm: float) -> None:
        pairs = [pair for r in ranks for pair in zip(r["losses"], r["parts"], strict=True)]
        bad = [(loss, part) for loss, part in pairs if not math.isfinite(loss)]
        if not bad and math.isfinite(norm):
            return
        what, indices = (f"loss is {bad[0][0]}", bad[0][1]) if bad else (f"gradient norm is {norm}", list(chosen))
        path = self.state_dir / "bad_batch.json"
        if self.processes.is_main:
            note = {"stage": self.stage, "step": self.step + 1, "problem": what, "indices": indices}
            write_json(path, {**note, "step_indices": list(chosen), "losses": [loss for loss, _ in pairs]})
        self.processes.wait()
        raise RunError(
            f"{self.stage}: at step {self.step + 1} of {self.total} the {what}; the items' positions are in {path}. "
            f"{self._kept()} Look at these items, or start again with a lower fit.learning_rate."
        )

    def _kept(self) -> str:
        if not self.pace.step:
            return "No training state was saved yet."
        return f"Step {self.pace.step} is kept in {self.state_dir}; the same command goes on from it."

    def _rate_factor(self) -> float:
        warmup = math.ceil(self.config.warmup_ratio * self.total - 1e-9)
        return learning_rate_factor(self.step, self.total, self.config.schedule, warmup, self.config.min_lr_ratio)

    def _count(self, chosen: Sequence[int], total: float, ranks: Sequence[Mapping[str, Any]], seconds: float) -> None:
        tokens = sum(self.costs[i] for i in chosen)
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self.window.add(ranks, total, tokens, seconds)
        weight = math.fsum(r["weight"] for r in ranks) or 1.0
        self.stopper.see_step({name: v / weight for name, v in add([r["metrics"] for r in ranks]).items()})

    def _log(self) -> None:
        self.last = {
            **self.window.values(),
            "learning_rate": self.rate,
            "grad_norm": self.norm,
            "epoch": self.epoch,
        }
        self.window = Window()
        if self.metrics is not None:
            self.metrics.add(MetricRow("fit", self.stage, self.last, step=self.step))
        self.processes.report({f"{self.stage}/{k}": v for k, v in self.last.items()}, self.step)

    def _save(self) -> None:
        start = time.monotonic()
        generators = {k: self.processes.gather_tensor(v) for k, v in generator_states(self.processes.device).items()}
        if self.processes.is_main:
            kept = ("step", "epoch", "tokens", "seconds", "last", "evaluation")
            scalars = {name: getattr(self, name) for name in kept}
            scalars |= {"window": asdict(self.window), "stopper": self.stopper.state()}
            save_checkpoint(self.state_dir, {**self.adam.state(), **generators}, scalars, identity=self._identity())
        self.processes.wait()
        self.pace.saved(self.step, start)

    def _restore(self) -> None:
        device = self.processes.device
        saved = load_checkpoint(self.state_dir, identity=self._identity(), device=device)
        if saved is None:
            self.processes.copy_from_main(self.adam.masters)
            self.adam.publish()
        else:
            scalars = saved.scalars
            self.step, self.tokens, self.seconds = scalars["step"], scalars["tokens"], scalars["seconds"]
            self.last, self.evaluation = numbers(scalars["last"]), numbers(scalars["evaluation"])
            self.window = Window(**{**scalars["window"], "metrics": numbers(scalars["window"]["metrics"])})
            self.stopper.load_state(scalars["stopper"])
            self.adam.load_state(saved.tensors, self.step)
            mine = {k: v[self.processes.rank] for k, v in saved.tensors.items() if k.startswith("rng.")}
            set_generator_states(mine, device)
            self.pace.step = self.step
            logger.info("%s: going on after step %d of %d", self.stage, self.step, self.total)
        if self.metrics is not None:
            self.metrics.cut(self.stage, after_step=self.step)

    def _identity(self) -> dict[str, Any]:
        """Whatever decides the weights that come out, by name, so that a refusal can say what differs."""
        shapes = [(n, list(m.shape)) for n, m in zip(self.adam.names, self.adam.masters, strict=True)]
        config = {k: v for k, v in asdict(self.config).items() if k not in _FREE}
        return {
            **config,
            "precision": self.precision,
            "stage": self.stage,
            "items": len(self.items),
            "items_hash": sha256_json([self.costs, self.units])[:16],
            "model": sha256_json(shapes)[:16],
            "device": self.processes.device.type,
            "processes": self.processes.count,
        }

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision != "bf16_autocast":
            return nullcontext()
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16)
