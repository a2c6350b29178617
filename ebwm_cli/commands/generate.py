"""`ebwm think --prompt`: continue a text, a token at a time, with the energy of each.

A plain generator of reports: a TokenReport per token, Notices, a GenerateReport last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.data.text import is_text
from ebwm_cli.errors import UsageError
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.generation import Choice, NewToken, generate
from ebwm_cli.run.outputs import kept, shown
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_text import GenerateReport, TokenReport
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thinking import budget_of, in_vain
from ebwm_cli.world.build import thinking_flops


def continue_text(
    checkpoint: Path | None,
    prompt: str,
    *,
    max_new: int = 64,
    temperature: float = 0.8,
    top_p: float = 0.95,
    steps: int | None = None,
    samples: int | None = None,
    stop: str | None = None,
    thinking: Mapping[str, Any] | None = None,
    out: Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Iterator[Report]:
    """Yield a TokenReport per new token, then one GenerateReport, also written to `out`/report.json where given.

    An empty prompt begins a document. Of a prompt longer than the context, the newest tokens are seen. `temperature` 0
    takes the likeliest token. Raises UsageError, CheckpointError.
    """
    began = time.perf_counter()
    if max_new < 1:
        raise UsageError("--max-new: there is at least one token to make", "--max-new 64")
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise UsageError(
            "--temperature is a number from 0 up, --top-p is above 0 and at most 1", "--temperature 0.8 --top-p 0.95"
        )
    if not is_text(prompt):
        raise UsageError("--prompt: it holds bytes that are no UTF-8", '--prompt "Once upon a time"')
    set_threads()
    loaded = load_world(checkpoint, device=device)
    tokenizer = loaded.encoder
    if not isinstance(tokenizer, Tokenizer):
        raise UsageError(
            f"--prompt: {shown(loaded.path)} was trained on {loaded.spec.modality}, it continues no text",
            "ebwm think --input CLIP, or a checkpoint trained on text",
        )
    asked = {"steps": steps, "samples": samples, "stop": stop}
    think = budget_of(loaded.recipe.think, asked, thinking)
    yield from in_vain(loaded, asked, thinking)
    if think.beam > 1:
        yield Notice(notice="beam: a text is written token by token; several futures are kept of states (--horizon)")
    given = tokenizer.encode(prompt).tolist() or [tokenizer.end_of_text]
    context = loaded.spec.context
    if len(given) > context:
        yield Notice(
            notice=f"the prompt has {len(given):,} tokens, the context holds {context:,}: the first "
            f"{len(given) - context:,} are not seen"
        )
    made: list[NewToken] = []
    writing = time.perf_counter()
    for new in generate(loaded, tokenizer, given, think, Choice(temperature, top_p), max_new, seed):
        made.append(new)
        yield TokenReport(done=len(made), total=max_new, **vars(new))
    ended = time.perf_counter()
    looks, tries = (sum(getattr(new, each) for new in made) / len(made) for each in ("looks", "tries"))
    report = GenerateReport(
        checkpoint=str(shown(loaded.path)),
        prompt=prompt,
        text="".join(new.text for new in made),
        tokens=[new.token for new in made],
        pieces=[new.text for new in made],
        score=loaded.world.score,
        energies=[new.energy for new in made if new.energy is not None],
        steps_used=[new.steps_used for new in made],
        probabilities=[new.probability for new in made],
        ended=made[-1].token == tokenizer.end_of_text,
        steps=think.steps,
        samples=think.samples,
        select=think.select,
        stop=think.stop,
        flops=len(made) * thinking_flops(loaded.recipe.model, think, loaded.spec, looks, tries),
        temperature=temperature,
        top_p=top_p,
        seconds=ended - began,
        tokens_per_second=len(made) / (ended - writing),
        files=[str(out / "report.json")] if out else [],
    )
    if out is None:
        yield report
    else:
        yield from kept(report, out, lambda: _written(report, out))


def _written(report: GenerateReport, out: Path) -> GenerateReport:
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
    return report
