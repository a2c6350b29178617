"""Questions to a model of text: pick among choices, or write the answer, by energy and by likelihood.

A continuation's likelihood is the sum of ln p over its tokens, its energy the sum of the total energies of those very
tokens as candidates. Works through `WorldModel` and, for energies, `Judge`.
"""

# L tokens of a continuation

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.data.text import is_text
from ebwm_cli.errors import DataError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.generation import Choice, generate
from ebwm_cli.run.report import QuestionsRow
from ebwm_cli.world.protocol import Judge

WRITTEN = 8
"""Continuations written for a question without choices: the greedy one, and others at temperature 1."""
HINT = 'one JSON object a line: {"prompt": "2 + 2 =", "answer": " 4", "choices": [" 4", " 5"]}'


@dataclass(frozen=True)
class Question:
    """What is asked, what is right and, where there is a choice, among what."""

    prompt: str
    answer: str
    choices: list[str] | None


@dataclass(frozen=True)
class Score:
    """How a continuation is judged."""

    likelihood: float
    """Sum of ln p over its tokens."""
    energy: float | None
    """Sum of the total energies of its tokens; None where the model has none."""


def read_questions(path: Path) -> list[Question]:
    """The questions of a jsonl file. Raises DataError naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold what else ends a line, as U+2028
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}", "--questions with a jsonl file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 at byte {error.start:,}", "--questions with a jsonl file") from None
    questions = [_question(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise DataError(f"{path} holds no questions", HINT)
    return questions


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row = json.loads(line)
        prompt, answer, choices = row["prompt"], row["answer"], row.get("choices")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{path}, line {number}: no prompt and answer", HINT) from None
    texts = [prompt, answer, *(choices if isinstance(choices, list) else [])]
    if (
        not all(isinstance(text, str) for text in texts)
        or not answer
        or not (choices is None or isinstance(choices, list))
    ):
        raise DataError(f"{path}, line {number}: prompt, answer and choices must be text, the answer not empty", HINT)
    if not all(is_text(text) for text in texts):
        raise DataError(f"{path}, line {number}: half a surrogate pair is no text", HINT)
    if choices is not None and answer not in choices:
        raise DataError(f"{path}, line {number}: the answer {answer!r} is not among the choices", HINT)
    return Question(prompt, answer, choices)


@torch.no_grad()
def ask(
    loaded: LoadedWorld, tokenizer: Tokenizer, questions: list[Question], think: ThinkSection, seed: int
) -> QuestionsRow:
    """Answer all `questions`: choices by picking one, others by writing WRITTEN continuations and picking one."""
    right: dict[tuple[bool, str], list[bool]] = {}
    chances: list[float] = []
    for question in questions:
        given = tokenizer.encode(question.prompt).tolist() or [tokenizer.end_of_text]
        among = question.choices is not None
        if question.choices is not None:
            options = {text: tokenizer.encode(text).tolist() for text in question.choices}
            chances.append(1 / len(options))
        else:
            options = _written(loaded, tokenizer, given, len(tokenizer.encode(question.answer)), think, seed)
        scores = {text: score(loaded, given, tokens, think) for text, tokens in options.items() if tokens}
        picks = {"likelihood": max(scores, key=lambda text: scores[text].likelihood)}
        if all(each.energy is not None for each in scores.values()):
            picks["energy"] = min(scores, key=lambda text: scores[text].energy or 0.0)
        for name, text in picks.items():
            right.setdefault((among, name), []).append(text.strip() == question.answer.strip())

    def share(among: bool, name: str) -> float | None:
        found = right.get((among, name))
        return sum(found) / len(found) if found else None

    return QuestionsRow(
        questions=len(questions),
        multiple_choice=len(chances),
        chance=sum(chances) / len(chances) if chances else None,
        accuracy_by_energy=share(True, "energy"),
        accuracy_by_likelihood=share(True, "likelihood"),
        exact_match_by_energy=share(False, "energy"),
        exact_match_by_likelihood=share(False, "likelihood"),
    )


@torch.no_grad()
def score(loaded: LoadedWorld, given: list[int], tokens: list[int], think: ThinkSection) -> Score:
    """Judge the continuation `tokens` of `given`, of which as many as the context holds are seen."""
    world, space = loaded.world, loaded.space
    seen = torch.tensor([(given + tokens)[-loaded.spec.context - 1 :]], device=loaded.device)
    length = min(len(tokens), seen.shape[1] - 1)
    memory = world.observe(seen[:, :-1])
    target = seen[:, -length:]
    rng = torch.Generator().manual_seed(0)
    predicted = world.predict(memory, think, rng, positions=length).state  # (1, L, V)
    energy = None
    if isinstance(world, Judge):
        energy = world.judge(space.certain(target), memory).sum().item()
    return Score(-space.distance(predicted, target).sum().item(), energy)


def _written(
    loaded: LoadedWorld, tokenizer: Tokenizer, given: list[int], length: int, think: ThinkSection, seed: int
) -> dict[str, list[int]]:
    """Different continuations of `length` tokens, by their text."""
    found: dict[str, list[int]] = {}
    for number in range(WRITTEN):
        choice = Choice(temperature=0.0 if number == 0 else 1.0)
        tokens = [new.token for new in generate(loaded, tokenizer, given, think, choice, length, seed + number)]
        found.setdefault(tokenizer.decode(tokens), tokens)
    return found
