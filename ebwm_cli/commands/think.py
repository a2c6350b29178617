"""`ebwm think`: predict what happens next in one window, and show every step of the descent that led there.

The window is the end of a clip, or one of the held-out windows of the set; its last states are kept back as truth.
Works through `WorldModel` and, for the landscape, `Judge`; knows no kind.
"""

# T observed states, H horizon, K descent steps, D state size

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebwm_cli.data.encoders import FrameEncoder, Tokenizer
from ebwm_cli.data.loader import as_states
from ebwm_cli.data.store import PreparedSet
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import held_out_set
from ebwm_cli.run.measure import device_of
from ebwm_cli.run.outputs import folder_beside, kept, next_number, shown
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_think import DescentRow, ThinkReport, TokenChance
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thinking import budget_of, in_vain
from ebwm_cli.run.thought import Scene, Thought, think_about
from ebwm_cli.run.thought_measures import (
    committed_share,
    held_out_energies,
    likeliest,
    rank,
    relative_spread,
    token_labels,
)
from ebwm_cli.run.thought_words import among, descent_in_words
from ebwm_cli.world.build import thinking_flops

LIKELIEST = 8
"""Tokens that the report names."""


def think(
    checkpoint: Path | None,
    *,
    steps: int | None = None,
    samples: int | None = None,
    stop: str | None = None,
    thinking: Mapping[str, Any] | None = None,
    input: Path | None = None,
    data: Path | None = None,
    index: int = 0,
    horizon: int = 1,
    out: Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Iterator[Report]:
    """Yield notices, then one ThinkReport.

    `steps`, `samples` and `stop` default to the recipe's, as does all that `thinking` (keys of ThinkSection) leaves
    out. `input` is a clip, encoded with the checkpoint's own encoder; without it, held-out window number `index` of the
    set is taken. Pictures and report.json go to `out`, by default to a new folder in the run's think/, and nowhere
    where the checkpoint lies in no run. Raises UsageError, DataError, CheckpointError.
    """
    began = time.perf_counter()
    if horizon < 1:
        raise UsageError("--horizon: there is at least one state to predict", "--horizon 1")
    set_threads()
    loaded = load_world(checkpoint, device=device)
    asked = {"steps": steps, "samples": samples, "stop": stop}
    budget = budget_of(loaded.recipe.think, asked, thinking)
    yield from in_vain(loaded, asked, thinking)
    if input:
        scene, prepared = _from_clip(loaded, input, horizon), _set_at_hand(loaded, data)
    else:
        prepared = held_out_set(loaded, data)
        scene = _from_held_out(loaded, prepared, index, horizon)
    if scene.truth is None:
        yield Notice(notice=f"{scene.source} is too short to keep {horizon} states back: nothing to compare with")
    thought = think_about(scene, loaded, budget, horizon, seed)
    others, whose = _other_energies(loaded, prepared, thought, budget, seed)
    report = _report(loaded, scene, thought, budget, (others, whose), time.perf_counter() - began)
    place = out or folder_beside(loaded.path, "think")
    if place is None:
        yield report
        return

    def write() -> Report:
        from ebwm_cli.run.thought_files import write_thought

        with nullcontext((place, place)) if out else next_number(place) as (folder, final):
            files = [*write_thought(folder, loaded, scene, thought, seed), folder / "report.json"]
            facts = {"files": [str(final / file.name) for file in files], "seconds": time.perf_counter() - began}
            whole = report.model_copy(update=facts)
            replace_file(files[-1], whole.model_dump_json(indent=2).encode() + b"\n")
        return whole

    yield from kept(report, place, write)


def _observed_length(context: int, horizon: int) -> int:
    """States to remember so that they and the truth fill one window; at least half a context, for long horizons."""
    return max(context + 1 - horizon, (context + 1) // 2, 1)


def _set_at_hand(loaded: LoadedWorld, data: Path | None) -> PreparedSet | None:
    """The set a clip's answer is held against, if there is one: it is not needed."""
    try:
        return held_out_set(loaded, data)
    except DataError:
        return None


def _from_held_out(loaded: LoadedWorld, prepared: PreparedSet, index: int, horizon: int) -> Scene:
    """Window `index` of the test split of the set the checkpoint belongs to."""
    split = prepared.split("test")
    length = _observed_length(loaded.spec.context, horizon)
    starts = split.windows(length + horizon - 1)
    if not len(starts):
        raise DataError(
            f"the test split of {prepared.path} holds no window of {length + horizon} states", "--horizon 1"
        )
    if not 0 <= index < len(starts):
        raise UsageError(
            f"--index {index}: the test split of {prepared.path} has {len(starts)} such windows, counted from 0",
            f"--index {len(starts) - 1}",
        )
    first = int(starts[index])
    states = as_states(split.states[first : first + length + horizon])[None]  # (1, T+H, ...)
    states = states.to(device_of(loaded))
    source = f"{shown(prepared.path)}, test window {index} ({prepared.place(split, first)})"
    return Scene(source, states[:, :length], states[:, length:])


def _from_clip(loaded: LoadedWorld, clip: Path, horizon: int) -> Scene:
    """The end of a clip, its last `horizon` states kept back where at least two remain."""
    from ebwm_cli.data.video import encode_clip

    if not isinstance(loaded.encoder, FrameEncoder):
        raise UsageError(
            f"--input: {shown(loaded.path)} was trained on {loaded.spec.modality}, it sees no clips",
            "ebwm think --prompt TEXT, or a checkpoint trained on video",
        )
    states = torch.from_numpy(encode_clip(clip, loaded.encoder, loaded.data["sampling"]))[None]  # (1, N, D)
    states = states.to(device_of(loaded))
    count = states.shape[1]
    if count < 2:
        raise DataError(
            f"{clip} gives {count} state{'s' * (count != 1)} at {loaded.data['interval']:g} s per state; at least two "
            "are needed",
            "--input a longer clip",
        )
    length = _observed_length(loaded.spec.context, horizon)
    if count < horizon + 2:
        return Scene(str(clip), states[:, -length:], None)
    known = states[:, :-horizon]
    return Scene(str(clip), known[:, -length:], states[:, -horizon:])


def _other_energies(
    loaded: LoadedWorld, prepared: PreparedSet | None, thought: Thought, budget: ThinkSection, seed: int
) -> tuple[Tensor, str]:
    """Energies (N,) the answer's is ranked among, and whose they are: held-out predictions where the set is at hand,
    else those of what was observed."""
    if not thought.score:
        return torch.empty(0), ""
    if prepared is not None:
        energies = held_out_energies(loaded, prepared.split("val"), budget, seed)
        if len(energies):
            return energies, among(thought.score, held_out=True)
    return thought.context_energies, among(thought.score, held_out=False)


def _report(
    loaded: LoadedWorld,
    scene: Scene,
    thought: Thought,
    budget: ThinkSection,
    others: tuple[Tensor, str],
    seconds: float,
) -> ThinkReport:
    """All but the files; `others` are the energies that the answer's is ranked among, and whose they are."""
    errors, energies, space = thought.errors, thought.energies, loaded.space
    copying, copied = space.copying(), None
    if scene.truth is not None and copying:
        copied = copying.loss(scene.observed[:, -1:], scene.truth[:, :1]).item()
    reader = loaded.encoder if isinstance(loaded.encoder, Tokenizer) else None
    stopped, answer = "said in one pass, which moves nothing", thought.states[0]
    if thought.score:
        drop = loaded.world.settling_drop(budget)
        typical = None if drop is None else drop.item()
        stopped = descent_in_words(
            thought.score, energies.tolist(), thought.steps_used, budget, typical, thought.bare.tolist()
        )
    energy_rank, ranked = rank(energies[0, -1].item(), others[0])
    samples = thought.sample_states if thought.score else thought.sample_states[:1]  # else all are the same
    return ThinkReport(
        checkpoint=str(shown(loaded.path)),
        source=scene.source,
        context=scene.observed.shape[1],
        horizon=len(thought.states),
        samples=budget.samples,
        select=budget.select,
        beam=budget.beam,
        stop=budget.stop,
        backtrack=budget.backtrack,
        steps=budget.steps,
        score=thought.score,
        steps_used=thought.steps_used,
        flops=len(thought.states) * thinking_flops(loaded.recipe.model, budget, loaded.spec, *_mean_spent(thought)),
        stopped=stopped,
        energies=energies[0].tolist(),
        energy_gap=(energies[0, 0] - energies[0, -1]).item(),
        descent=_descent(thought),
        position_energies=[*thought.context_energies.tolist(), *energies[:, -1].tolist()],
        sample_energies=thought.sample_energies.tolist(),
        sample_agreement=committed_share(space, samples, answer),
        sample_spread=relative_spread(space, samples, answer, scene.observed[0, -1].cpu()),
        energy_rank=energy_rank,
        ranked_energies=ranked,
        ranked_among=others[1],
        error=None if errors is None else errors[0, -1].item(),
        reference="copying the last" if copying else None,
        reference_error=copied,
        predicted_text=reader.decode(space.commit(thought.states).tolist()) if reader else None,
        true_text=reader.decode(scene.truth[0].tolist()) if reader and scene.truth is not None else None,
        likeliest=_likeliest(reader, answer, scene.truth) if reader else [],
        rollout_errors=[] if errors is None else errors[:, -1].tolist(),
        states=len(thought.states),
        files=[],
        seconds=seconds,
    )


def _mean_spent(thought: Thought) -> tuple[float, float]:
    """Looks and tries per predicted state."""
    return thought.looks / len(thought.states), thought.tries / len(thought.states)


def _likeliest(tokenizer: Tokenizer, answer: Tensor, truth: Tensor | None) -> list[TokenChance]:
    """The likeliest next tokens by logits `answer` (V,), beside the true ones (1, H)."""
    chances, tokens = (each[0].tolist() for each in likeliest(answer[None], LIKELIEST))
    true = None if truth is None else int(truth[0, 0])
    told = zip(token_labels(tokenizer, tokens), chances, tokens, strict=True)
    return [TokenChance(token=label, probability=chance, true=token == true) for label, chance, token in told]


def _descent(thought: Thought) -> list[DescentRow]:
    """The descent table, averaged over the predicted states."""
    energies = thought.energies.mean(0).tolist()  # K+1
    moves = thought.moves.mean(0).tolist()  # K
    errors = [None] * len(energies) if thought.errors is None else thought.errors.mean(0).tolist()
    return [
        DescentRow(
            step=step,
            energy=energy,
            drop=energies[step - 1] - energy if step else 0.0,
            move=moves[step - 1] if step else 0.0,
            error=errors[step],
        )
        for step, energy in enumerate(energies)
    ]
