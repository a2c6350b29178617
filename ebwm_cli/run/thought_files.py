"""Writes a thought down: a strip of frames and a film, or a table of tokens, the energy landscape it moved in, and all
its numbers.

A world that can't score candidates (no `Judge`) has no landscape. Computes nothing that a report says.
"""

# T observed states, H horizon, K descent steps, D state size

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ebwm_cli.data.encoders import FrameEncoder, Tokenizer
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.landscape import ScoreFn, Second, survey
from ebwm_cli.run.measure import decode
from ebwm_cli.run.picture_think import Cell, Line, draw_candidates, draw_landscape
from ebwm_cli.run.pictures import (
    BLUE,
    GREEN,
    ORANGE,
    Curve,
    Row,
    Tile,
    difference_frame,
    draw_strip,
)
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thought import Scene, Thought
from ebwm_cli.run.thought_measures import SURE, candidate_of, likeliest, token_labels
from ebwm_cli.run.video_writer import write_rollout
from ebwm_cli.world.protocol import Judge

COLUMNS = 7
"""Most frames side by side in a strip."""
LINES, TOKENS = 8, 8
"""Most candidates, and tokens of each, in a table of tokens."""
SCORED_AT_ONCE = 256
SCORED_POSITIONS = 8192
"""Candidates of a landscape scored together, and the states observed for them: bounds memory."""


def write_thought(folder: Path, loaded: LoadedWorld, scene: Scene, thought: Thought, seed: int) -> list[Path]:
    """Write strip.png and rollout.mp4 (where states are frames), candidates.png (where they are tokens), landscape.png
    and trajectory.safetensors into `folder`; returns what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    if isinstance(loaded.encoder, FrameEncoder):
        files += [folder / "strip.png", folder / "rollout.mp4"]
        _strip(files[0], loaded.encoder, scene, thought)
        remembered = decode(loaded.encoder, scene.observed[0, -2 * COLUMNS :])
        truth = None if scene.truth is None else decode(loaded.encoder, scene.truth[0])
        write_rollout(files[1], remembered, decode(loaded.encoder, thought.states), truth, loaded.data["interval"])
    if isinstance(loaded.encoder, Tokenizer):
        files.append(folder / "candidates.png")
        _candidates(files[-1], loaded.encoder, scene, thought)
    if isinstance(loaded.world, Judge):
        files.append(folder / "landscape.png")
        _landscape(files[-1], scorer(loaded.world, loaded, scene, thought), loaded, scene, thought, seed)
    files.append(folder / "trajectory.safetensors")
    replace_file(files[-1], save(_tensors(scene, thought)))
    return files


def _tensors(scene: Scene, thought: Thought) -> dict[str, Tensor]:
    tensors = {
        "observed": scene.observed[0],  # (T, D)
        "path": thought.path,  # (H, K+1, D)
        "energies": thought.energies,  # (H, K+1)
        "moves": thought.moves,  # (H, K)
        "start": thought.path[:, 0],  # (H, D)
        "states": thought.states,  # (H, D)
        "origin": thought.origin,  # (H, D)
        "steps_used": torch.tensor(thought.steps_used),  # (H,)
        "sample_states": thought.sample_states,  # (M, D)
        "sample_energies": thought.sample_energies,  # (M,)
        "position_energies": torch.cat([thought.context_energies, thought.energies[:, -1]]),  # (T-1+H,)
    }
    if scene.truth is not None and thought.errors is not None:
        tensors |= {"truth": scene.truth[0], "errors": thought.errors}  # (H, D), (H, K+1)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


# ---------------------------------------------------------------------------------------------- strip


def shown_steps(steps: int, count: int = COLUMNS - 1) -> list[int]:
    """At most `count` (>= 3) of the descent steps 0 .. `steps`, both ends included: 0 1 2 4 8 16."""
    doubling = [0, *(2**power for power in range(steps.bit_length())), steps]
    chosen = sorted({step for step in doubling if step <= steps})
    if len(chosen) <= count:
        return chosen
    picked = np.linspace(1, len(chosen) - 1, count - 1).round().astype(int)
    return [0, *(chosen[index] for index in picked)]


def _strip(path: Path, encoder: FrameEncoder, scene: Scene, thought: Thought) -> None:
    """Remembered frames, the first prediction's descent, what is still wrong; for rollouts the later states too."""
    remembered = decode(encoder, scene.observed[0, -COLUMNS:])
    first = [Tile(frame, _time(i + 1 - len(remembered))) for i, frame in enumerate(remembered)]
    steps = shown_steps(thought.energies.shape[1] - 1)
    candidates = decode(encoder, thought.path[0, steps])
    energies = thought.energies[0, steps].tolist()
    if thought.score:
        tiles = [
            Tile(frame, "start" if step == 0 else f"step {step}", f"E {_signed(energy)}")
            for frame, step, energy in zip(candidates, steps, energies, strict=True)
        ]
        title = f"Thinking about what happens next: {thought.score} {_signed(energies[0])} → {_signed(energies[-1])}"
        name, footnote = "thinking\nabout t + 1", f"E: {_full(thought.score)} of the candidate. "
    else:
        tiles = [Tile(frame, "in one pass") for frame in candidates]
        title, name, footnote = "What happens next, said in one pass", "t + 1", ""
    tiles[-1] = Tile(tiles[-1].frame, tiles[-1].above, tiles[-1].below, ORANGE)
    rows = [Row("remembered", first), Row(name, tiles)]
    if scene.truth is not None and thought.errors is not None:
        truth = decode(encoder, scene.truth[0])
        tiles.append(Tile(truth[0], "truth", "", GREEN))
        losses = thought.errors[0, steps].tolist()
        wrong = [
            Tile(difference_frame(frame, truth[0]), "", f"loss {loss:.4f}")
            for frame, loss in zip(candidates, losses, strict=True)
        ]
        rows.append(Row("still wrong", wrong))
        title += f", loss {' → '.join(f'{loss:.4f}' for loss in dict.fromkeys((losses[0], losses[-1])))}"
    if len(thought.states) > 1:
        rows += _rollout_rows(encoder, scene, thought)
    draw_strip(path, title, rows, footnote + "Frames are decoded states. Dark: far from the truth.")


def _rollout_rows(encoder: FrameEncoder, scene: Scene, thought: Thought) -> list[Row]:
    """Predicted states t+1 .. t+H, above the true ones."""
    horizon = len(thought.states)
    shown = sorted({round(i) for i in np.linspace(0, horizon - 1, min(horizon, COLUMNS))})
    imagined = decode(encoder, thought.states[shown])
    if scene.truth is None or thought.errors is None:
        tiles = [Tile(frame, _time(i + 1), "", ORANGE) for i, frame in zip(shown, imagined, strict=True)]
        return [Row("imagined", tiles)]
    losses = thought.errors[shown, -1].tolist()
    tiles = [
        Tile(frame, _time(i + 1), f"loss {loss:.4f}", ORANGE)
        for i, frame, loss in zip(shown, imagined, losses, strict=True)
    ]
    real = [Tile(frame, "", "", GREEN) for frame in decode(encoder, scene.truth[0, shown])]
    return [Row("imagined", tiles), Row("truth", real)]


def _full(score: str) -> str:
    """A score's full name: energies are shown with the pull of the anchor."""
    return "total energy" if score == "energy" else score


def _signed(energy: float) -> str:
    return f"{energy:.4f}".replace("-", "−")


def _time(ahead: int) -> str:
    """Name of a state's time, counted from the last remembered one."""
    return "t" if ahead == 0 else f"t {'+' if ahead > 0 else '−'} {abs(ahead)}"


# ---------------------------------------------------------------------------------------------- landscape


def scorer(judge: Judge, loaded: LoadedWorld, scene: Scene, thought: Thought) -> ScoreFn:
    """Total energies of any candidates for the first predicted state, anchored where its descent was, and measured as
    those along it are: as where it ended."""
    device = scene.observed.device
    at_once = max(1, min(SCORED_AT_ONCE, SCORED_POSITIONS // scene.observed.shape[1]))
    ends = thought.origin[0], thought.path[0, -1]
    origin, end = (each.to(device).expand(at_once, 1, -1) for each in ends)  # (B, 1, D)
    with torch.no_grad():
        judged = judge.judging(loaded.world.observe(torch.cat([scene.observed] * at_once)), 1)

    def score(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) -> (N,); the last batch is filled up, as a Memory has as many rows as it was made with."""
        energies = []
        for part in torch.from_numpy(candidates).to(device).split(at_once):
            full = torch.cat([part, part[-1:].expand(at_once - len(part), -1)])[:, None]  # (B, 1, D)
            with torch.no_grad():
                energies.append(judged(full, origin, end)[: len(part), 0].float().cpu())
        return torch.cat(energies).numpy()

    return score


def _landscape(path: Path, score: ScoreFn, loaded: LoadedWorld, scene: Scene, thought: Thought, seed: int) -> None:
    """The energy along the first predicted state's descent and, in one plane or two, around it."""
    space, candidates, rng = loaded.space, thought.path[0], np.random.default_rng(seed)
    truth, curves = None, []
    steps, name = range(len(candidates)), thought.score or ""
    curves.append(Curve(_full(name), steps, thought.energies[0].tolist(), BLUE))
    if scene.truth is not None and thought.errors is not None:
        truth = candidate_of(space, candidates[0], scene.truth[0, 0].cpu()).numpy()
        copying = space.copying()
        beside = ("copy last", copying.loss(scene.observed[:, -1:], scene.truth[:, :1]).item()) if copying else None
        curves.append(Curve("loss to the truth", steps, thought.errors[0].tolist(), ORANGE, beside))
    wanted: list[Second] = ["random"] if truth is None else ["truth", "random"]
    planes = [survey(score, candidates.numpy(), truth, rng, second) for second in wanted]
    truth_name = f"truth at {SURE:.0%}" if space.in_nats else "truth"
    draw_landscape(path, f"The {name} of what happens next", planes, curves, truth_name)


# ---------------------------------------------------------------------------------------------- tokens


def _candidates(path: Path, tokenizer: Tokenizer, scene: Scene, thought: Thought) -> None:
    """The likeliest tokens of the first predicted state, step by step."""
    steps = shown_steps(len(thought.path[0]) - 1, LINES)
    logits = thought.path[0, steps]  # (N, V)
    chances, tokens = likeliest(logits, TOKENS)
    true = None if scene.truth is None else int(scene.truth[0, 0])
    name = "" if true is None else token_labels(tokenizer, [true])[0]
    true_chances = None if true is None else logits.double().softmax(-1)[:, true].tolist()
    lines = []
    for row, step in enumerate(steps):
        labels = token_labels(tokenizer, tokens[row].tolist())
        shown = zip(labels, chances[row].tolist(), tokens[row].tolist(), strict=True)
        lines.append(
            Line(
                name="in one pass" if not thought.score else "start" if step == 0 else f"step {step}",
                energy=thought.energies[0, step].item() if thought.score else None,
                cells=[Cell(label, chance, token == true) for label, chance, token in shown],
                truth=Cell(name, true_chances[row], True) if true_chances else None,
            )
        )
    title = "What comes next, thought about" if thought.score else "What comes next, said in one pass"
    draw_candidates(path, title, lines, _full(thought.score or ""))
