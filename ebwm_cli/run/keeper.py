"""Keeps a trainer's state and its best model in a run folder.

Metrics are on disk before the checkpoint that counts on them, the checkpoint before the model exported from it. So
whatever moment the process dies at, the folder holds a state to go on from, and the best model can be made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ebwm_cli.data.encoders import Encoder
from ebwm_cli.errors import CheckpointError
from ebwm_cli.run.checkpoint import read_step, save_model
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.metrics import cut_metrics
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.run.training_state import newest_whole, prune, read_state, step_folder, write_state


class Keeper:
    """Saves and restores `trainer` in `folder`; `data` and `encoder` go into the model file."""

    def __init__(self, folder: RunFolder, trainer: Trainer, data: Mapping[str, Any], encoder: Encoder) -> None:
        self.folder = folder
        self.trainer = trainer
        self._data = data
        self._encoder = encoder
        self._saved: tuple[int, int, int | None] | None = None
        self._kept_best: int | None = None
        self._damaged: set[int] = set()
        self._is_latest = False

    def restore(self) -> list[str]:
        """Bring the trainer to the newest whole checkpoint and everything else in the folder back to that moment;
        returns what a person should know. Raises CheckpointError where no checkpoint is whole."""
        state, damaged = newest_whole(self.folder.checkpoints)
        notices = [f"{problem}; an older checkpoint is taken" for problem in damaged.values()]
        self._damaged = set(damaged)
        if state is not None:
            self.trainer.restore(state)
            self._saved, self._kept_best = self._present, self.trainer.progress.best_step
            notices.append(f"going on from step {self.trainer.progress.step} of {self.trainer.steps}")
            notices += self._settle_model()
        cut_metrics(self.folder.metrics_file, self.trainer.progress.step, self.trainer.progress.validated)
        return notices

    def save(self) -> None:
        """Commit the present state, if it isn't yet, and let old ones go: the `keep` newest and the best stay."""
        progress, checkpoints = self.trainer.progress, self.folder.checkpoints
        if self._saved == self._present:
            return
        keep = self.trainer.recipe.train.keep

        def make_room() -> None:  # so that there are never more than keep + 1; the newest is not let go yet
            prune(checkpoints, keep=max(keep - 1, 1), best_step=self._kept_best, damaged=self._damaged)

        write_state(checkpoints, progress.step, self.trainer.state(), make_room)
        self._saved, self._kept_best = self._present, progress.best_step
        self._damaged.clear()
        prune(checkpoints, keep=keep, best_step=progress.best_step)

    def export(self) -> None:
        """Write the present (averaged) weights, which validated best so far, to model.safetensors."""
        self._write_model(self.trainer.exported_weights(), self.trainer.progress.step)

    @property
    def _present(self) -> tuple[int, int, int | None]:
        """What tells two states of this training apart: a validation changes one as an update does."""
        progress = self.trainer.progress
        return progress.step, progress.validated, progress.best_step

    def _settle_model(self) -> list[str]:
        """Make model.safetensors the restored state's best: it may be missing, damaged, or from an abandoned future.
        Where the best is damaged too, the present state counts as not validated yet, and no validation as worse."""
        progress = self.trainer.progress
        if progress.best_step is None or read_step(self.folder.model_file) == progress.best_step:
            return []
        try:
            best = read_state(step_folder(self.folder.checkpoints, progress.best_step))
        except CheckpointError as error:
            progress.best_step = progress.best_loss = None
            progress.validated, progress.stale = min(progress.validated, progress.step - 1), 0
            return [f"{error.message}; the next validation gives the best model anew"]
        self._write_model(self.trainer.best_weights(best), progress.best_step)
        return []

    def _write_model(self, weights: Mapping[str, Tensor], step: int) -> None:
        trainer = self.trainer
        save_model(
            self.folder.model_file,
            weights,
            recipe=trainer.recipe,
            spec=trainer.spec,
            encoder=self._encoder,
            data=self._data,
            step=step,
        )
        if not self._is_latest:
            self.folder.point_latest()
            self._is_latest = True
