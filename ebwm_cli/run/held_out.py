"""Which prepared set a checkpoint is judged on, and whether its states are the ones the model was trained to see.

A state means something only together with its encoder: a set with another basis gives other numbers to the same frame.
Knows no kind of model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ebwm_cli.data.encoders import Encoder
from ebwm_cli.data.store import PreparedSet, find_set, open_set, sets_below
from ebwm_cli.errors import DataError
from ebwm_cli.run.checkpoint import LoadedWorld

SHOWN_DIGITS = 12
"""Of a set's fingerprint."""


def held_out_set(loaded: LoadedWorld, data: Path | None) -> PreparedSet:
    """The set in folder `data`; without one the set `loaded` was trained on: where it was, or below ./data.

    Raises DataError where it is not found, is damaged, or has states from another encoder.
    """
    if data is not None:
        prepared = open_set(find_set(data))
        if prepared.fingerprint != loaded.data["fingerprint"] and not same_encoder(prepared.encoder, loaded.encoder):
            raise DataError(
                f"{data} {_otherwise(prepared, loaded)}; its states mean nothing to this model",
                f"ebwm train --data {data} for a model of that set, or {_needs_no_set(loaded)}",
            )
        return prepared
    for folder in (Path(loaded.data["path"]), *sets_below(Path("data"))):
        prepared = _open_if_there(folder)
        if prepared is not None and prepared.fingerprint == loaded.data["fingerprint"]:
            return open_set(folder)
    raise DataError(
        f"the set {loaded.path} was trained on is neither at {loaded.data['path']} nor below ./data",
        f"--data DIR, or {_needs_no_set(loaded)}",
    )


def _otherwise(prepared: PreparedSet, loaded: LoadedWorld) -> str:
    """How the states of a set are not those that a model was trained to see."""
    theirs, own = prepared.spec.modality, loaded.spec.modality
    if theirs != own:
        return f"is {theirs}, {loaded.path} was trained on {own}"
    how = "cut into other tokens" if loaded.space.in_nats else "encoded with another basis"
    return f"was {how} than {loaded.path} was trained on"


def _needs_no_set(loaded: LoadedWorld) -> str:
    """The command that encodes what it is given by itself."""
    given = "--prompt TEXT" if loaded.space.in_nats else "--input CLIP"
    return f"ebwm think --checkpoint {loaded.path} {given}, which needs no set"


def same_encoder(one: Encoder, other: Encoder) -> bool:
    """Whether both encoders give every frame the same state."""
    mine, theirs = one.tensors(), other.tensors()
    return (
        one.config() == other.config()
        and mine.keys() == theirs.keys()
        and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    )


def comparable(loaded: LoadedWorld, other: LoadedWorld) -> None:
    """Refuse to compare checkpoints whose held-out windows differ: DataError names both, and their sets.

    A set's fingerprint covers its splits, so equal ones leave only the context to differ.
    """
    if loaded.data["fingerprint"] != other.data["fingerprint"]:
        raise DataError(
            f"{loaded.path} was trained on {_named(loaded)}, {other.path} on {_named(other)}; losses on different "
            "sets can't be compared",
            f"ebwm train --data {loaded.data['path']} for the other model too",
        )
    if loaded.spec.context != other.spec.context:
        raise DataError(
            f"{loaded.path} was trained on contexts of {loaded.spec.context} states, {other.path} on "
            f"{other.spec.context}; their windows differ",
            f"ebwm train data.context={loaded.spec.context} for the other model too",
        )


def _named(loaded: LoadedWorld) -> str:
    """The set it was trained on: two that were prepared in the same folder differ in their fingerprints only."""
    return f"{loaded.data['path']} (fingerprint {loaded.data['fingerprint'][:SHOWN_DIGITS]})"


def _open_if_there(folder: Path) -> PreparedSet | None:
    """The set in `folder` without checking its bytes, or None where there is no readable set."""
    try:
        return open_set(folder, verify=False)
    except DataError:
        return None
