"""`ebwm prepare`: clips -> a prepared set. Decode what is not decoded yet, split, fit the encoder, encode, write.

A plain generator of reports: a ClipReport per clip, Notices, a PrepareReport last. Everything slow is kept per clip, so
the same command after any interruption goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli import __version__
from ebwm_cli.data.encoders.pca import fit_pca
from ebwm_cli.data.files import EXTENSIONS, space_or_error
from ebwm_cli.data.frames import FrameStore
from ebwm_cli.data.intake import Taken, take_in
from ebwm_cli.data.labels import Labelling
from ebwm_cli.data.sampling import Sampling, segments_of
from ebwm_cli.data.split import TRAIN, ClipStates, divide, stretches
from ebwm_cli.data.store import FORMAT, SPLITS, Split
from ebwm_cli.data.video import Limits
from ebwm_cli.data.writer import (
    FRAMES,
    Clip,
    commit,
    locked,
    new_building,
    split_summary,
    write_encoder,
    write_quarantine,
    write_splits,
)
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.run.processors import usable_cores
from ebwm_cli.run.report import ClipReport, Notice, PrepareReport, Quarantined, Report, WindowCounts

INTERVAL = 0.25
SIZE, SIZES = 32, (4, 256)
"""Pixels of a frame's side: where nothing else is asked for, and from and to."""
CLIPS = "clips"


def prepare_video(
    src: Path,
    out: Path | None = None,
    *,
    encoder: str = "pca",
    interval: float | None = None,
    every: int | None = None,
    size: int = SIZE,
    latent_dim: int = 128,
    context: int = 16,
    workers: int | None = None,
    limits: Limits | None = None,
    labelling: Labelling | None = None,
) -> Iterator[Report]:
    """Prepare the clips in folder (or file) `src` as the set `out` (None: data/<name of src>).

    States are `interval` seconds apart (None: 0.25), or `every` so many frames; `labelling` labels them (None: nobody
    does). Raises DataError where no clip can be used, where none is long enough for `context`, or where another process
    is writing `out`; ResourceError where the disk is full.
    """
    sampling = _sampling(interval, every, size)
    if encoder != "pca":
        raise UsageError(f"unknown encoder {encoder!r}", "--encoder pca")
    if latent_dim < 1 or context < 1:
        raise UsageError("--latent-dim and --context must be at least 1", "--latent-dim 128 --context 16")
    src = Path(src)
    if not src.exists():
        raise DataError(f"there is no {src}", "--src with a folder of clips, or ebwm prepare demo")
    real = src.resolve()
    out = Path(out) if out is not None else Path("data") / ((real.name if src.is_dir() else real.stem) or "clips")
    with space_or_error(out), locked(out):
        yield from _prepare(src, out, sampling, latent_dim, context, workers or usable_cores(), limits, labelling)


def prepare_demo(
    out: Path | None = None, *, seed: int = 0, workers: int | None = None, clips: int | None = None, **options: Any
) -> Iterator[Report]:
    """Render the built-in clips into `out`/clips (None: data/demo), then `prepare_video` with `options`; every state is
    labelled with the collisions that lead to it."""
    from ebwm_cli.data.demo import CLIP_COUNT, COLLISIONS, count_collisions, render_demo

    out = Path(out) if out is not None else Path("data") / "demo"
    count = clips or CLIP_COUNT
    _sampling(options.get("interval"), options.get("every"), options.get("size", SIZE))  # or refuse, before rendering
    with space_or_error(out), locked(out):
        began = time.monotonic()
        (out / FRAMES).mkdir(exist_ok=True)  # says whose folder this is, should rendering be cut off
        fresh = render_demo(out / CLIPS, count, seed, workers or usable_cores())
        if fresh:
            yield Notice(notice=f"rendered {fresh} clips of colliding balls in {time.monotonic() - began:.1f} s")
    labelling = Labelling(COLLISIONS, count_collisions)
    yield from prepare_video(out / CLIPS, out, workers=workers, labelling=labelling, **options)


def _sampling(interval: float | None, every: int | None, size: int) -> Sampling:
    if interval is not None and every is not None:
        raise UsageError("--interval and --every exclude each other", f"--interval {INTERVAL}")
    if every is not None and every < 1:
        raise UsageError(f"--every must be at least 1, not {every}", "--every 1")
    if interval is not None and not 1e-4 <= interval <= 86400:
        raise UsageError(f"--interval must be between 0.0001 and 86400 seconds, not {interval}", "--interval 0.25")
    least, most = SIZES
    if not least <= size <= most:
        raise UsageError(f"--size must be between {least} and {most} pixels, not {size}", f"--size {SIZE}")
    return Sampling(None if every is not None else interval or INTERVAL, every, size)


def _prepare(
    src: Path,
    out: Path,
    sampling: Sampling,
    latent_dim: int,
    context: int,
    workers: int,
    limits: Limits | None,
    labelling: Labelling | None,
) -> Iterator[Report]:
    began = time.monotonic()
    every_file: list[Taken] = []
    store = FrameStore(out / FRAMES, sampling)
    for taken in take_in(src, store, workers, limits, outside=out):
        every_file.append(taken)
        yield _clip_report(taken, sampling, context)
    kept, refused = _sorted_out(src, every_file)

    division = divide([ClipStates(each.sha256, _segments(each, sampling)) for each in kept], context, sampling)
    clips = [
        Clip(_record(each), each.entry, _segments(each, sampling), parts, _labels(each, labelling))
        for each, parts in zip(kept, division.labels, strict=True)
        if each.entry
    ]
    training = [clip.parts == TRAIN for clip in clips]
    chunks = chain.from_iterable(clip.entry.chunks(keep) for clip, keep in zip(clips, training, strict=True))
    encoder = fit_pca(chunks, sum(int(keep.sum()) for keep in training), sampling.size, latent_dim)
    if encoder.latent_dim < latent_dim:
        span = f"the training frames span only {encoder.latent_dim} dimensions"
        yield Notice(notice=f"{span}; states have {encoder.latent_dim} numbers instead of {latent_dim}")

    building = new_building(out)
    write_splits(building, clips, encoder)
    write_encoder(building, encoder)
    write_quarantine(building, refused)
    windows = {name: len(Split(building / name, name, context).windows()) for name in SPLITS}
    splits = {name: {**facts, "windows": windows.get(name, 0)} for name, facts in split_summary(clips).items()}
    manifest = {
        "format": FORMAT,
        "tool": f"ebwm {__version__}",
        "spec": StateSpec(state_dim=encoder.latent_dim, context=context).model_dump(),
        "sampling": sampling.as_json(),
        "interval": sampling.interval or _usual_interval(clips),
        "encoder": encoder.config(),
        "split_by": division.by,
        "splits": splits,
        "clips": [clip.record for clip in clips],
        "quarantined": len(refused),
        **({"labels": labelling.labels.as_json()} if labelling else {}),
    }
    commit(out, building, manifest)
    last = max(every_file, key=lambda each: each.done)
    yield PrepareReport(
        out=str(out),
        clips=len(clips),
        frames=sum(each.frames for each in kept),
        states=sum(clip.entry.states for clip in clips),
        windows=WindowCounts(**windows),
        context=context,
        latent_dim=encoder.latent_dim,
        encoder=encoder.name,
        explained_variance=encoder.explained_variance,
        split_by=division.by,
        quarantined=[Quarantined(**each) for each in refused],
        reused_clips=sum(each.reused for each in kept),
        seconds=time.monotonic() - began,
        frames_per_second=_rate(last),
    )


def _sorted_out(src: Path, every_file: Sequence[Taken]) -> tuple[list[Taken], list[dict[str, str]]]:
    """Clips to keep and files to quarantine, in the order of their names. Raises DataError where none is left."""
    if not every_file:
        kinds = ", ".join(sorted(each[1:] for each in EXTENSIONS))
        raise DataError(f"there are no clips in {src}", f"--src with a folder of {kinds} files, or ebwm prepare demo")
    in_order = sorted(every_file, key=lambda each: os.fsencode(each.path))
    refused = [{"file": each.name, "reason": each.reason} for each in in_order if each.reason is not None]
    kept = [each for each in in_order if each.reason is None]
    if not kept:
        told = "; ".join(f"{each['file']}: {each['reason']}" for each in refused[:3])
        raise DataError(f"none of the {len(refused)} clips in {src} can be used ({told})", "--src with clips that play")
    return kept, refused


def _clip_report(taken: Taken, sampling: Sampling, context: int) -> ClipReport:
    facts = taken.entry.facts if taken.entry else None
    reason = taken.reason
    if facts is not None:
        longest = max(b - a for a, b in stretches(segments_of(np.array(facts["times"]), sampling)))
        short = f"too short for a window: {longest} states of {context + 1}" if longest <= context else None
        reason = "; ".join(filter(None, [facts["partial"], short])) or None
    return ClipReport(
        clip=taken.name,
        frames=taken.frames,
        states=len(facts["indices"]) if facts else 0,
        reused=taken.reused,
        reason=reason,
        quarantined=taken.reason is not None,
        done=taken.done,
        total=taken.total,
        frames_per_second=_rate(taken),
        eta_seconds=taken.eta_seconds,
    )


def _rate(taken: Taken) -> float:
    return taken.decoded_frames / taken.decode_seconds if taken.decode_seconds else 0.0


def _segments(taken: Taken, sampling: Sampling) -> np.ndarray:
    facts = taken.entry.facts if taken.entry else None
    assert facts is not None
    return segments_of(np.array(facts["times"]), sampling)


def _labels(taken: Taken, labelling: Labelling | None) -> np.ndarray | None:
    facts = taken.entry.facts if taken.entry else None
    assert facts is not None
    return labelling.of(taken.name, facts["indices"]) if labelling else None


def _record(taken: Taken) -> dict[str, Any]:
    """A clip in the manifest."""
    facts = taken.entry.facts if taken.entry else None
    assert facts is not None
    same = {key: facts[key] for key in ("frames", "partial", "decoder", "codec", "width", "height")}
    return {"file": taken.name, "sha256": taken.sha256, "bytes": taken.size, "states": len(facts["indices"]), **same}


def _usual_interval(clips: Sequence[Clip]) -> float:
    """Median seconds between states, where they were taken by count."""
    steps = [np.diff(clip.entry.facts["times"]) for clip in clips if clip.entry.facts]
    every = np.concatenate(steps)
    return round(float(np.median(every)), 6) if len(every) else 0.0
