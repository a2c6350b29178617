"""Everything a training consists of, as one value that can be advanced, saved and restored.

state = (weights, optimizer, average, progress); the next one is a pure function of it, the recipe and the set. So a
restored training makes the very updates that an uninterrupted one would have made. Several ranks hold the same state
and advance it together. Knows no terminal and no folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import PreparedSet
from ebwm_cli.errors import CheckpointError, DivergedError
from ebwm_cli.recipe.load import load_recipe, shipped_recipes
from ebwm_cli.recipe.schema import Recipe, TrainSection
from ebwm_cli.run.distributed import ALONE, Ranks
from ebwm_cli.run.fitting import anchor_fitted, level_fitted
from ebwm_cli.run.held_out_loss import HeldOutScore, HeldOutWindows, references_of
from ebwm_cli.run.launch import parts_of
from ebwm_cli.run.measure import perplexity
from ebwm_cli.run.report import TrainLine, ValidationLine
from ebwm_cli.run.training_state import TrainingState
from ebwm_cli.world.average import WeightAverage
from ebwm_cli.world.build import build_world
from ebwm_cli.world.optim import build_optimizer, learning_rate
from ebwm_cli.world.update import Update, norm_of_late, update_weights

SANE_RATE = 1e-2
"""No recipe learns at a higher rate."""


@dataclass
class Progress:
    """The numbers of a training state; floats survive JSON bit for bit."""

    step: int = 0
    """Updates made or skipped."""
    validated: int = 0
    """Step of the last validation."""
    best_step: int | None = None
    best_loss: float | None = None
    stale: int = 0
    """Validations since the best."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    """Wall-clock, up to the last save."""
    updating_seconds: float = 0.0
    usual_norm: float | None = None
    """Running geometric mean of gradients' norms."""
    deadline: float | None = None
    """Seconds of updating after which training ends, decided once; None: after the recipe's steps."""
    averaged: int = 0
    """Updates since the last log line."""
    sums: dict[str, float] = field(default_factory=dict)
    """Over those, of what is measured."""


class Trainer:
    """One training of `recipe` on `prepared`, on `device`, alone or as one of `ranks`. Raises RecipeError or DataError
    where they don't fit."""

    def __init__(self, recipe: Recipe, prepared: PreparedSet, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.parts = parts_of(recipe.train, ranks.size)
        self.recipe = recipe
        self.device = device
        self.ranks = ranks
        self.spec = recipe.state_spec(prepared.spec)
        self.loader = Loader(
            prepared.split("train"),
            recipe.train.batch_size,
            recipe.seed,
            self.spec.context,
            mix=recipe.data.mix,
            share=recipe.data.fraction,
        )
        self.held_out = HeldOutWindows(prepared.split("val"), self.spec.context, recipe.train.validate_windows, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.world = build_world(recipe.model, self.spec).to(device)
        self.world.set_precision(recipe.train.precision)
        self.optimizer = build_optimizer(self.world, recipe.train)
        self.average = WeightAverage(self.world, recipe.train.ema) if recipe.train.ema else None
        known = references_of(self.world.space, prepared.split("train"))
        self.reference, hardest = next(iter(known.predictors.items()))
        self.reference_loss = self.held_out.loss_of(hardest)
        self.progress = Progress()
        self._began = time.perf_counter()
        self._since_line = 0.0, 0  # seconds and updates
        self._fraction: float | None = None  # of the deadline, when the last update began

    # ------------------------------------------------------------------------------------------ advance

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumes."""
        return self.progress.seconds + time.perf_counter() - self._began

    @property
    def states_per_second(self) -> float:
        """States learned to predict per second of updating, over all resumes."""
        progress = self.progress
        states = progress.step * self.recipe.train.batch_size * self.spec.context
        return states / progress.updating_seconds if progress.updating_seconds else 0.0

    @property
    def finished(self) -> bool:
        """Whether all updates are made, or validation has stopped getting better."""
        patience = self.recipe.train.patience
        return self._ended or bool(patience and self.progress.stale >= patience)

    @property
    def steps(self) -> int:
        """Updates in all; with a deadline, as many as fit at the present pace."""
        progress = self.progress
        if progress.deadline is None or not progress.step:
            return self.recipe.train.steps
        if self._ended:
            return progress.step
        return max(round(progress.step * progress.deadline / progress.updating_seconds), progress.step + 1)

    @property
    def _ended(self) -> bool:
        """Whether steps or time are used up."""
        progress = self.progress
        if progress.deadline is None:
            return progress.step >= self.recipe.train.steps
        return progress.updating_seconds >= progress.deadline

    def update(self) -> Update:
        """Make the next update, or skip it where it isn't finite; DivergedError after too many skips in a row."""
        began, train, progress = time.perf_counter(), self.recipe.train, self.progress
        self._fraction = None if progress.deadline is None else progress.updating_seconds / progress.deadline
        states = self.ranks.part(self.loader.batch(progress.step).states).to(self.device, non_blocking=True)
        update = update_weights(
            self.world,
            self.optimizer,
            states,
            train=train,
            seed=self.recipe.seed,
            step=progress.step,
            fraction=self._fraction,
            usual_norm=progress.usual_norm,
            ranks=self.ranks,
        )
        progress.step += 1
        if update.finite:
            progress.skipped_in_a_row = 0
            progress.averaged += 1
            progress.usual_norm = norm_of_late(progress.usual_norm, update.grad_norm)
            for name, value in {"loss": update.loss, "grad_norm": update.grad_norm, **update.measures}.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            if self.average:
                self.average.update()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        seconds = time.perf_counter() - began
        progress.updating_seconds += seconds
        if progress.deadline is not None:  # one clock decides
            progress.updating_seconds = self.ranks.told(progress.updating_seconds)
        self._since_line = self._since_line[0] + seconds, self._since_line[1] + 1
        if progress.skipped_in_a_row >= train.max_bad_steps:
            raise DivergedError(
                f"loss or gradient was not finite in {progress.skipped_in_a_row} updates in a row, up to step "
                f"{progress.step}",
                f"train.learning_rate={slower_rate(self.recipe):.2g}",
            )
        return update

    def line(self) -> TrainLine | None:
        """The log line due now, if one is and any update since the last was finite."""
        progress, train = self.progress, self.recipe.train
        if not progress.averaged or (progress.step % train.log_every and not self._ended):
            return None
        mean: dict[str, Any] = {name: value / progress.averaged for name, value in progress.sums.items()}
        seconds, updates = self._since_line
        self._since_line = 0.0, 0
        progress.averaged, progress.sums = 0, {}
        return TrainLine(
            step=progress.step,
            steps=self.steps,
            **mean,
            learning_rate=learning_rate(progress.step - 1, train, self._fraction),
            states_per_second=updates * train.batch_size * self.spec.context / seconds,
            seconds=self.seconds,
            eta_seconds=self._eta_seconds,
            skipped=progress.skipped,
        )

    @property
    def validation_due(self) -> bool:
        """Whether the present weights should be, and have not been, validated."""
        step, every = self.progress.step, self.recipe.train.validate_every
        return step != self.progress.validated and (step % every == 0 or self._ended)

    def validate(self, abandon: Callable[[], bool]) -> ValidationLine | None:
        """Score the (averaged) weights on held-out windows; None, changing nothing, as soon as `abandon()` says so. The
        first rank does, so that the score doesn't depend on how many there are; the others are told.

        A loss that isn't finite is never the best, and ends the training where there is no better one by the end.
        """
        score = None
        if self.ranks.first:
            with self._averaged():
                if anchor_fitted(self.world, self.recipe, self.held_out, abandon):
                    score = self.held_out.score(self.world, self.recipe.think, self.recipe.seed, abandon)
                if score and self._is_best(score.loss):
                    fitted = level_fitted(self.world, self.recipe, self.loader, self.held_out, abandon)
                    score = score if fitted else None
        told = self.ranks.told(score and asdict(score))
        if told is None:
            return None
        score = HeldOutScore(**told)
        progress = self.progress
        best = self._is_best(score.loss)
        progress.validated = progress.step
        progress.stale = 0 if best else progress.stale + 1
        if best:
            progress.best_step, progress.best_loss = progress.step, score.loss
        if self.finished and progress.best_step is None:
            raise DivergedError("no validation gave a finite loss", "think.steps=1")
        return ValidationLine(
            step=progress.step,
            val_loss=score.loss,
            perplexity=perplexity(self.world.space, score.loss),
            reference=self.reference,
            reference_loss=self.reference_loss,
            energy_start=score.energy_start if self.world.score else None,
            energy_final=score.energy_final if self.world.score else None,
            best=best,
            seconds=self.seconds,
        )

    def _is_best(self, loss: float) -> bool:
        """Whether no validation had a lower one."""
        best = self.progress.best_loss
        return loss < (math.inf if best is None else best)

    # ------------------------------------------------------------------------------------------ save, restore

    def exported_weights(self) -> dict[str, Tensor]:
        """The (averaged) weights as a world's state dict, copied."""
        with self._averaged():
            return {name: tensor.detach().clone() for name, tensor in self.world.state_dict().items()}

    def state(self) -> TrainingState:
        """All of it. Raises DivergedError rather than hand out a number that is not finite."""
        self.progress.seconds, self._began = self.seconds, time.perf_counter()
        tensors: dict[str, Mapping[str, Tensor]] = {
            "weights": self.world.state_dict(),
            "optimizer": _optimizer_tensors(self.optimizer, self._names()),
        }
        if self.average:
            tensors["average"] = self.average.tensors()
        if kept := self.world.kept_tensors():
            tensors["kept"] = kept
        for group in tensors.values():
            for name, tensor in group.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise DivergedError(f"{name} is not finite after step {self.progress.step}; it was not saved")
        return TrainingState(tensors, asdict(self.progress))

    def restore(self, state: TrainingState) -> None:
        """Go on from a state that `state()` gave. Raises CheckpointError where it doesn't fit the recipe."""
        try:
            self.world.load_state_dict(dict(state.tensors["weights"]))
            _load_optimizer(self.optimizer, self._names(), state.tensors["optimizer"])
            if self.average:  # switched on later: the average begins at the restored weights
                self.average.load(state.tensors.get("average") or dict(self.world.named_parameters()))
            self.world.load_kept(state.tensors.get("kept", {}))
            self.progress = Progress(**state.numbers)
        except (RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint is of another model: {error}", "add --fresh to start over"
            ) from error
        self._began = time.perf_counter()

    def follow_first(self) -> None:
        """Take over the state of the first rank."""
        if self.ranks.size > 1:
            state = self.ranks.told_state(self.state() if self.ranks.first else None)
            if not self.ranks.first:
                self.restore(state)

    def best_weights(self, state: TrainingState) -> Mapping[str, Tensor]:
        """What `exported_weights` was when `state` was saved."""
        return {**state.tensors["weights"], **state.tensors.get("average", {})}

    # ------------------------------------------------------------------------------------------ helpers

    @property
    def _eta_seconds(self) -> float:
        """Wall-clock to the end, as what is done took."""
        progress = self.progress
        if progress.deadline is None:
            return self.seconds / progress.step * (self.recipe.train.steps - progress.step)
        left = max(progress.deadline - progress.updating_seconds, 0.0)
        return self.seconds / progress.updating_seconds * left

    def _averaged(self) -> Any:
        return self.average.applied() if self.average else nullcontext()

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.world.named_parameters()}


def slower_rate(recipe: Recipe) -> float:
    """What to go on with where a recipe's learning rate was too high: a third of it, and where that is too high for any
    training, the rate of the shipped recipe of that name, or of recipes that say none."""
    third = recipe.train.learning_rate / 3
    if third <= SANE_RATE:
        return third
    shipped = next((name for name in shipped_recipes() if name.rpartition("/")[2] == recipe.name), None)
    return (load_recipe(shipped).train if shipped else TrainSection()).learning_rate


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimizer's state, `parameter/key` -> tensor."""
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, held in optimizer.state.items()
        for key, value in held.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `_optimizer_tensors`; the groups' settings are the recipe's."""
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    held: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        held.setdefault(order.index(parameter), {})[key] = tensor
    optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
