"""Reports about text: what `prepare text` makes of documents, what `think --prompt` writes.

They are reports like all others, and stand apart only because they are many.
"""

from __future__ import annotations

from ebwm_cli.run.report import Quarantined, Report, WindowCounts


class TextReport(Report):
    """Progress of `prepare text`: so much has been tokenized, or taken from an earlier run."""

    file: str
    bytes_done: int
    bytes_total: int
    tokens: int
    """So far."""
    bytes_per_second: float
    eta_seconds: float


class PrepareTextReport(Report):
    """What `ebwm prepare text` made."""

    out: str
    files: int
    documents: int
    bytes: int
    """Of text in the three parts, as UTF-8."""
    tokens: int
    """In the three parts, ends of text included."""
    bytes_per_token: float
    vocab_size: int
    tokenizer: str
    """bpe, bytes or file."""
    windows: WindowCounts
    context: int
    split_by: str
    """`document` or `block`."""
    sample: list[str]
    """The first tokens of the training part."""
    quarantined: list[Quarantined]
    reused_files: int
    seconds: float
    bytes_per_second: float
    """Text tokenized in this run over the seconds spent on it; 0 where nothing was."""


class TokenReport(Report):
    """Progress of `think --prompt`: one more token."""

    done: int
    total: int
    """At most."""
    token: int
    text: str
    """What it adds; empty while a character is incomplete."""
    energy: float | None
    """Score where its descent ended; None where the model has none."""
    steps_used: int
    probability: float
    """Of this token, at temperature 1."""
    looks: int
    """Energies computed and differentiated for it."""
    tries: int
    """Energies only computed."""


class GenerateReport(Report):
    """What `ebwm think --prompt` wrote."""

    checkpoint: str
    prompt: str
    text: str
    """What follows the prompt."""
    tokens: list[int]
    pieces: list[str]
    """What each token adds to the text."""
    score: str | None
    """What the energies are: energy, or denoising error; None where the model has none."""
    energies: list[float]
    steps_used: list[int]
    probabilities: list[float]
    ended: bool
    """Whether the text came to its end before the last token that was allowed."""
    steps: int
    samples: int
    select: str
    """Which of the samples a token is taken from: `think.select` of the recipe."""
    stop: str
    flops: float
    """Really spent on the new tokens, remembering them included."""
    temperature: float
    top_p: float
    seconds: float
    tokens_per_second: float
    """While writing: loading the model and reading the prompt don't count."""
    files: list[str]
