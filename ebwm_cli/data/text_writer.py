"""Writes tokens as the splits of a prepared set: one Arrow row per stretch of a document, packed by end-of-text.

A window may span documents that end-of-text joins, but never a cut: a new segment begins wherever a stretch starts
inside its document, or follows one that did not reach its document's end. It must not know where tokens come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ebwm_cli.data.store import SPLITS
from ebwm_cli.data.text_tokens import FileTokens


class TextWriter:
    """Context manager that takes files in order and leaves train/, val/ and test/ in `folder`.

    `label` says the labels (N,) int8 of the tokens (N,) of whole documents, which then are a column; None: no labels.
    """

    def __init__(self, folder: Path, label: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        import pyarrow as pa
        from datasets import Features, List, Value, disable_progress_bars

        disable_progress_bars()
        self._folder, self._label = folder, label
        whole = {name: Value("int32") for name in ("file", "document", "segment")}
        labels = {"label": List(Value("int8"))} if label else {}
        self._features = Features({**whole, "state": List(Value("int32")), **labels})
        schema = self._features.arrow_schema
        self._sinks: dict[str, Any] = {name: pa.OSFile(str(self._rows(name)), "wb") for name in SPLITS}
        self._writers: dict[str, Any] = {name: pa.ipc.new_stream(self._sinks[name], schema) for name in SPLITS}
        self._segment: dict[str, int] = dict.fromkeys(SPLITS, 0)
        self._open_end: dict[str, bool] = dict.fromkeys(SPLITS, False)
        self.counts: dict[str, dict[str, int]] = {name: {"documents": 0, "states": 0, "bytes": 0} for name in SPLITS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in SPLITS:
            self._writers[name].close()
            self._sinks[name].close()
        if error is None:
            self._save()

    def add(self, number: int, found: FileTokens) -> None:
        """Append the stretches of source file `number`."""
        import pyarrow as pa

        edges = np.concatenate([[0], np.cumsum(found.lengths)])
        for label, name in enumerate(SPLITS):
            chosen = np.flatnonzero(found.labels == label)
            if not len(chosen):
                continue
            segments = [self._next_segment(name, bool(found.begins[i]), bool(found.ends[i])) for i in chosen]
            tokens = np.concatenate([found.tokens[edges[i] : edges[i + 1]] for i in chosen])
            offsets = pa.array(np.concatenate([[0], np.cumsum(found.lengths[chosen])]).astype(np.int32))
            columns: list[Any] = [
                pa.array(np.full(len(chosen), number, np.int32)),
                pa.array(found.documents[chosen].astype(np.int32)),
                pa.array(np.array(segments, np.int32)),
                pa.ListArray.from_arrays(offsets, pa.array(tokens)),
            ]
            if self._label:
                columns.append(pa.ListArray.from_arrays(offsets, pa.array(self._label(tokens))))
            self._writers[name].write_table(pa.Table.from_arrays(columns, schema=self._features.arrow_schema))
            counts = self.counts[name]
            counts["documents"] += len(np.unique(found.documents[chosen]))
            counts["states"] += len(tokens)
            counts["bytes"] += int(found.sizes[chosen].sum())

    def _next_segment(self, name: str, begins: bool, ends: bool) -> int:
        if self._open_end[name] or not begins:
            self._segment[name] += 1
        self._open_end[name] = not ends
        return self._segment[name]

    def _rows(self, name: str) -> Path:
        return self._folder / f".{name}.arrow"

    def _save(self) -> None:
        from datasets import Dataset
        from datasets.table import MemoryMappedTable

        for name in SPLITS:
            table = MemoryMappedTable.from_file(str(self._rows(name)))
            Dataset(table, fingerprint=name).save_to_disk(str(self._folder / name))
            del table
            self._rows(name).unlink()
