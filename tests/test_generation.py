"""Text: it is written a token at a time as if all were recomputed, measured as by hand, and bad wishes are answered."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from small_set import make_run, make_set
from small_text import CONTEXT, make_text_set, small_text_recipe
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from ebwm_cli import cli
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.commands.generate import continue_text
from ebwm_cli.commands.think import think
from ebwm_cli.console_write import TINTS, borders, tinted
from ebwm_cli.data.encoders.tokenizer import Tokenizer, byte_tokenizer
from ebwm_cli.errors import EbwmError, UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.generation import Choice, TextStream
from ebwm_cli.run.report import EvalReport, Notice, ThinkReport
from ebwm_cli.run.report_text import GenerateReport, TokenReport
from ebwm_cli.world.build import thinking_flops


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("text")
    make_run(home / "runs" / "first", make_text_set(home / "data" / "one"), recipe=small_text_recipe())
    return home


@pytest.fixture
def model(home, tmp_path):
    """A checkpoint that lies in no run."""
    return shutil.copy(home / "runs" / "first" / "model.safetensors", tmp_path / "x.safetensors")


def written(checkpoint, prompt, **options) -> tuple[list[Notice], list[TokenReport], GenerateReport]:
    *progress, report = continue_text(checkpoint, prompt, **{"device": "cpu", **options})
    assert isinstance(report, GenerateReport)
    notices = [each for each in progress if isinstance(each, Notice)]
    return notices, [each for each in progress if isinstance(each, TokenReport)], report


# ---------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_text_is_the_same_when_everything_is_recomputed(model, samples):
    loaded, think = load_world(model), ThinkSection(steps=2, samples=samples, start_noise=0.0)
    prompt = loaded.encoder.encode("my cat").tolist()
    _, _, report = written(model, "my cat", max_new=CONTEXT - len(prompt), temperature=0.0, steps=2, samples=samples)
    tokens = list(prompt)
    for _ in report.tokens:
        memory = loaded.world.observe(torch.tensor([tokens]))
        tokens.append(int(loaded.world.predict(memory, think, torch.Generator()).state[0, -1].argmax()))
    assert tokens[len(prompt) :] == report.tokens


def test_the_report_is_what_was_streamed(model):
    _, streamed, report = written(model, "the ", max_new=12, seed=3)
    assert [each.token for each in streamed] == report.tokens
    assert "".join(each.text for each in streamed) == report.text
    assert [each.energy for each in streamed] == report.energies
    assert [each.done for each in streamed] == list(range(1, len(streamed) + 1))
    assert all(0 < p <= 1 for p in report.probabilities)
    assert report.steps_used == [3] * len(report.tokens)


def test_the_flops_are_those_of_what_was_looked_at(model):
    loaded = load_world(model)
    for samples in (1, 3):
        _, streamed, report = written(model, "the ", max_new=5, steps=2, samples=samples)
        assert [(each.looks, each.tries) for each in streamed] == [(2 * samples, samples)] * 5
        recipe = loaded.recipe
        each = thinking_flops(recipe.model, recipe.think, loaded.spec, 2.0 * samples, samples)
        assert report.flops == pytest.approx(5 * each)


def test_a_beam_says_that_it_is_for_states(model):
    notices, _, _ = written(model, "the ", max_new=2, samples=2, thinking={"beam": 2})
    assert any("beam" in each.notice for each in notices)


def test_a_seed_says_what_is_drawn(model):
    texts = [written(model, "a", max_new=10, temperature=1.5, top_p=1.0, seed=seed)[2].tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_empty_prompt_begins_a_document(model):
    loaded = load_world(model)
    _, _, report = written(model, "", max_new=1, temperature=0.0)
    memory = loaded.world.observe(torch.tensor([[loaded.encoder.end_of_text]]))
    expected = loaded.world.predict(memory, loaded.recipe.think, torch.Generator()).state[0, -1].argmax()
    assert report.tokens == [int(expected)]


def test_of_a_long_prompt_the_newest_tokens_are_seen(model):
    loaded = load_world(model)
    prompt = "the cat sees the moon.\n" * 20
    tokens = loaded.encoder.encode(prompt)
    notices, _, report = written(model, prompt, max_new=1, temperature=0.0)
    assert f"{len(tokens):,} tokens" in notices[0].notice
    assert f"{len(tokens) - CONTEXT:,} are not seen" in notices[0].notice
    memory = loaded.world.observe(torch.from_numpy(tokens[-CONTEXT:].astype(np.int64))[None])
    expected = loaded.world.predict(memory, loaded.recipe.think, torch.Generator()).state[0, -1].argmax()
    assert report.tokens == [int(expected)]


def test_more_tokens_than_the_context_holds_can_be_made(model):
    _, _, report = written(model, "the", max_new=3 * CONTEXT, temperature=2.0, top_p=1.0)
    assert len(report.tokens) == 3 * CONTEXT or report.ended


def test_the_text_ends_where_the_model_says_so(model, monkeypatch):
    loaded = load_world(model)
    monkeypatch.setattr(Choice, "take", lambda self, logits, rng: loaded.encoder.end_of_text)
    _, _, report = written(model, "the", max_new=5)
    assert (report.tokens, report.ended, report.text) == ([loaded.encoder.end_of_text], True, "")


def test_stopping_spends_no_more_than_its_budget(model):
    _, _, report = written(model, "the", max_new=4, steps=30, stop="energy")
    assert all(1 <= used <= 30 for used in report.steps_used)
    assert min(report.steps_used) < 30


def test_choices_keep_to_their_distribution():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    rng = torch.Generator().manual_seed(0)
    assert Choice(0.0).take(logits, rng) == 0
    for top_p, allowed in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        drawn = {Choice(1.0, top_p).take(logits, rng) for _ in range(300)}
        assert drawn == allowed
    counts = np.bincount([Choice(1.0).take(logits, rng) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(counts - [0.5, 0.3, 0.15, 0.05]).max() < 0.03  # four standard errors
    sharp = [Choice(0.1).take(logits, rng) for _ in range(200)]
    assert np.mean(np.array(sharp) == 0) > 0.95


def test_a_character_of_several_tokens_is_said_when_it_is_whole():
    stream = TextStream(byte_tokenizer())
    assert [stream.add(byte) for byte in "é🦊x".encode()] == ["", "é", "", "", "", "🦊", "x"]


def test_tokens_of_other_tokenizers_are_said_as_the_text_grows():
    inner = Inner(models.WordLevel({"▁the": 0, "▁fox": 1, "[UNK]": 2, "</s>": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    stream = TextStream(Tokenizer(inner, "file", 3))
    assert "".join(stream.add(token) for token in (0, 1, 1)) == "the fox fox"


BYTES = {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}


def llama_like() -> Tokenizer:
    """Characters a and U+FFFD, spaces before words, and bytes for all other characters."""
    vocabulary = {"</s>": 0, **BYTES, "a": 257, "▁": 258, "\ufffd": 259}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)  # type: ignore[arg-type]
    inner.add_special_tokens(["</s>"])
    return Tokenizer(inner, "file", 0)


@pytest.mark.parametrize("text", ["aaé€a", "é€🦊", "▁a▁a", "a\ufffda", "a\ufffd", "a🦊"])
def test_characters_of_byte_tokens_are_said_once(text):
    tokenizer = llama_like()
    stream, tokens = TextStream(tokenizer), tokenizer.encode(text).tolist()
    said = [stream.add(token) for token in tokens]
    assert "".join([*said, stream.rest()]) == tokenizer.decode(tokens)
    whole = text.replace("▁", "").replace("\ufffda", "a").removesuffix("\ufffd")  # U+FFFD waits for what follows
    assert sum(map(bool, said)) >= len(whole)


@pytest.mark.parametrize("tokenizer", [llama_like(), byte_tokenizer()], ids=["file", "bytes"])
def test_a_character_that_stays_incomplete_is_said_at_the_end(tokenizer):
    stream, tokens = TextStream(tokenizer), tokenizer.encode("a🦊").tolist()[:-1]
    said = [stream.add(token) for token in tokens]
    assert "".join(said) == "a"
    assert "".join([*said, stream.rest()]) == tokenizer.decode(tokens)


def test_the_report_tells_what_all_its_tokens_decode_to(model, monkeypatch):
    tokens = load_world(model).encoder.encode("a🦊").tolist()[:-1]
    left = list(tokens)
    monkeypatch.setattr(Choice, "take", lambda self, logits, rng: left.pop(0))
    _, _, report = written(model, "the ", max_new=len(tokens))
    assert report.tokens == tokens
    assert report.text == "".join(report.pieces) == load_world(model).encoder.decode(tokens)


# ---------------------------------------------------------------------------------------------- measuring


def losses(loaded, tokens: np.ndarray, steps: int) -> torch.Tensor:
    """-ln p of tokens[1:], (N-1,), window by window."""
    states = torch.from_numpy(tokens.astype(np.int64))[None]
    predicted = loaded.world.predict(loaded.world.observe(states[:, :-1]), ThinkSection(steps=steps), torch.Generator())
    return -predicted.state.log_softmax(-1)[0].gather(-1, states[0, 1:, None])[:, 0]


def test_perplexity_and_bits_per_byte_are_those_of_the_mean_loss(home):
    *_, report = evaluate(home / "runs" / "first", data=home / "data" / "one", steps=[1, 3], samples=[1], device="cpu")
    assert isinstance(report, EvalReport)
    loaded = load_world(home / "runs" / "first")
    states = make_text_set(home / "again" / "one").split("test").states
    starts = range(0, len(states) - CONTEXT, CONTEXT)
    each = torch.cat([losses(loaded, states[start : start + CONTEXT + 1], 3) for start in starts])
    targets = np.concatenate([states[start + 1 : start + CONTEXT + 1] for start in starts])
    size = sum(len(loaded.encoder.token_bytes(int(token))) for token in targets)
    assert report.loss == pytest.approx(each.mean().item(), rel=1e-5)
    assert report.perplexity == pytest.approx(math.exp(report.loss))
    assert report.bits_per_byte == pytest.approx(each.sum().item() / math.log(2) / size, rel=1e-5)
    assert [row.perplexity for row in report.by_steps] == [pytest.approx(math.exp(row.loss)) for row in report.by_steps]
    assert [row.name for row in report.references] == ["bigram", "unigram"]
    assert report.references[0].loss < report.references[1].loss == report.mean_loss
    assert report.copy_last_loss is None
    assert report.rollout == []
    assert report.against[0].other == "bigram"


def test_a_stride_gives_every_prediction_a_longer_past(home):
    *_, report = evaluate(
        home / "runs" / "first", data=home / "data" / "one", steps=[3], samples=[1], stride=4, device="cpu"
    )
    loaded = load_world(home / "runs" / "first")
    states = make_text_set(home / "again" / "two").split("test").states
    starts = range(0, len(states) - CONTEXT, 4)
    each = torch.cat([losses(loaded, states[start : start + CONTEXT + 1], 3)[-4:] for start in starts])
    assert report.stride == 4
    assert report.windows == len(starts)
    assert report.loss == pytest.approx(each.mean().item(), rel=1e-5)


def test_at_most_so_many_windows_are_looked_at(home):
    *_, report = evaluate(
        home / "runs" / "first", data=home / "data" / "one", steps=[1], samples=[1], most_windows=3, device="cpu"
    )
    assert report.windows == 3


def test_a_held_out_window_is_thought_about(home):
    *_, report = think(
        home / "runs" / "first", data=home / "data" / "one", horizon=2, device="cpu", out=home / "thought"
    )
    assert isinstance(report, ThinkReport)
    assert report.reference is report.reference_error is None
    assert report.true_text is not None
    assert {file.rpartition("/")[2] for file in report.files} == {
        "candidates.png",
        "landscape.png",
        "trajectory.safetensors",
        "report.json",
    }


# ---------------------------------------------------------------------------------------------- wishes


def test_a_model_of_clips_continues_no_text_and_one_of_text_sees_no_clips(home, tmp_path, model):
    clips = make_run(tmp_path / "runs" / "clips", make_set(tmp_path / "data" / "clips"))
    with pytest.raises(UsageError, match="continues no text"):
        written(clips, "the")
    with pytest.raises(UsageError, match="sees no clips"):
        list(think(model, input=tmp_path / "clip.mp4", device="cpu"))


@pytest.mark.parametrize(
    "options",
    [
        {"max_new": 0},
        *({"temperature": value} for value in (-1.0, float("inf"), float("nan"))),
        *({"top_p": value} for value in (0.0, 1.5)),
        {"stop": "never"},
        {"samples": 0},
    ],
)
def test_wishes_that_mean_nothing_are_answered(model, options):
    with pytest.raises(EbwmError) as caught:
        written(model, "the", **options)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_prompt_that_is_no_text_is_refused(model, capsys):
    assert cli.run(["think", "--checkpoint", str(model), "--prompt", "the \udcff"]) == 2
    assert "--prompt: it holds bytes that are no UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--max-new", "5"],
        ["--temperature", "0.5"],
        ["--prompt", "the", "--horizon", "3"],
        ["--prompt", "the", "--input", "clip.mp4"],
        ["--prompt", "the", "--index", "2"],
    ],
)
def test_options_that_would_do_nothing_are_refused(model, words, capsys):
    assert cli.run(["think", "--checkpoint", str(model), *words]) == 2
    assert "--prompt" in capsys.readouterr().err


def test_json_gives_tokens_energies_steps_and_probabilities(model, capsys):
    assert cli.run(["think", "--checkpoint", str(model), "--prompt", "the", "--max-new", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"text", "tokens", "energies", "steps_used", "probabilities", "pieces"} <= set(document)
    assert len(document["tokens"]) == len(document["energies"]) == len(document["probabilities"])


def test_the_text_is_printed_with_its_legend(model, capsys):
    assert cli.run(["think", "--checkpoint", str(model), "--prompt", "the [red]", "--max-new", "4"]) == 0
    out = capsys.readouterr().out
    assert "the [red]" in out
    assert out.count("█ to") == len(TINTS)


def test_each_fifth_of_the_energies_has_its_tint():
    energies = [float(i) for i in range(50)]
    text = tinted(["x"] * 50, energies)
    counts = {tint: sum(span.style == tint for span in text.spans) for tint in TINTS}
    assert set(counts.values()) == {10}
    assert text.spans[0].style == TINTS[0]
    assert len(borders(energies)) == len(TINTS) - 1


def test_what_could_move_the_cursor_is_not_printed():
    assert "\x1b" not in tinted(["\x1b[31m", "b"], [1.0, 2.0]).plain
