"""metrics.jsonl: one flushed JSON object per report. Knows reports, not what they measure."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from ebwm_cli.run import safe_write
from ebwm_cli.run.report import Report


def cut_metrics(path: Path, step: int, validated: int) -> None:
    """Keep the lines up to `step`, of validations those up to `validated`; a torn last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            report = json.loads(line)
            if line.endswith(b"\n") and report["step"] <= (validated if "val_loss" in report else step):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    safe_write.replace_file(path, b"".join(kept))


class MetricsWriter:
    """Context manager that appends reports to a metrics file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def write(self, report: Report) -> None:
        """Append one line, visible to other processes at once."""
        self._file.write(report.model_dump_json() + "\n")
        self._file.flush()

    def commit(self) -> None:
        """Make what was written survive a power loss; called before a checkpoint that counts on it."""
        safe_write.fsync(self._file.fileno())
