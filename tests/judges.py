"""Judges that tests make up."""

from __future__ import annotations

from typing import Any


class OneAtATime:
    """What one candidate costs, the next one costs again."""

    judge: Any

    def judging(self, memory: Any, positions: int) -> Any:
        return lambda candidate, start=None, like=None: self.judge(candidate, memory, start)
