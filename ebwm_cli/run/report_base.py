"""What every report is: a frozen record, written as one JSON object. Knows no command."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Report(BaseModel):
    """Base of all reports: frozen, and written as one JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid")
