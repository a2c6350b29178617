"""The recurrent network: torch's own cell between two norms, a way past it, and a memory that never ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from kinds import CONTEXT, rng, windows, world_of
from torch import nn
from torch.nn import functional as F

from ebwm_cli.model.rnn import RecurrentNetwork
from ebwm_cli.recipe.schema import ThinkSection

WIDTH, LAYERS, LONG = 8, 2, 3 * CONTEXT

each_cell = pytest.mark.parametrize("cell", ["gru", "lstm"])


def network_of(cell: str) -> RecurrentNetwork:
    torch.manual_seed(0)
    network = RecurrentNetwork(WIDTH, LAYERS, cell).double()
    with torch.no_grad():
        for norm in (network.norm_in, network.norm):
            norm.weight += 0.3 * torch.randn(WIDTH)
        assert not network.past.weight.any()  # the way past the gates opens in training
        network.past.weight += torch.randn(WIDTH, WIDTH)
    return network


def states_of(length: int = 12) -> torch.Tensor:
    return torch.randn(3, length, WIDTH, generator=rng(), dtype=torch.float64)


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (WIDTH,), weight, eps=1e-5)


def past(network: RecurrentNetwork, states: torch.Tensor) -> torch.Tensor:
    return states @ network.past.weight.T


@each_cell
def test_it_is_torchs_cell_beside_a_linear_way_past_it(cell):
    network, states = network_of(cell), states_of()
    plain = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](WIDTH, WIDTH, LAYERS, batch_first=True).double()
    plain.load_state_dict(network.cell.state_dict())
    out, after = plain(norm(states, network.norm_in.weight))
    memory = network.observe(states)
    assert torch.allclose(memory.hidden, norm(past(network, states) + out, network.norm.weight), atol=1e-12)
    expected = after if cell == "lstm" else (after,)
    assert len(memory.cell) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(memory.cell, expected, strict=True))


@each_cell
def test_its_recurrence_is_the_textbook_one(cell):
    """GRU: h <- (1 - z) n + z h; LSTM: c <- f c + i g, h <- o tanh(c); written out, state by state."""
    network, states = network_of(cell), states_of()
    stream = norm(states, network.norm_in.weight)
    for layer in range(LAYERS):
        w_in, w_out, b_in, b_out = (
            getattr(network.cell, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, c, outs = torch.zeros(3, WIDTH).double(), torch.zeros(3, WIDTH).double(), []
        for x in stream.unbind(1):
            by_input, by_state = x @ w_in.T + b_in, h @ w_out.T + b_out
            if cell == "gru":
                (r, z, n), (r2, z2, n2) = by_input.chunk(3, -1), by_state.chunk(3, -1)
                z = torch.sigmoid(z + z2)
                h = (1 - z) * torch.tanh(n + torch.sigmoid(r + r2) * n2) + z * h
            else:
                i, f, g, o = (by_input + by_state).chunk(4, -1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            outs.append(h)
        stream = torch.stack(outs, 1)
    assert torch.allclose(
        network.observe(states).hidden, norm(past(network, states) + stream, network.norm.weight), atol=1e-12
    )


@each_cell
def test_recurrent_weights_begin_as_rotations(cell):
    network = network_of(cell)
    for layer in range(LAYERS):
        for gate in getattr(network.cell, f"weight_hh_l{layer}").detach().split(WIDTH):
            assert torch.allclose(gate @ gate.T, torch.eye(WIDTH).double(), atol=1e-6)


@each_cell
@pytest.mark.parametrize("modality", ["video", "text"])
@pytest.mark.parametrize("at_once", [1, 4])
def test_beyond_the_context_the_cell_still_knows(cell, modality, at_once):
    """Hidden states are forgotten, what the cell kept is not: the prediction is that of one long stream."""
    world = world_of(cell, modality).double()
    states = windows(modality, length=LONG)
    states = states if modality == "text" else states.double()
    memory = None
    for part in states.split(at_once, dim=1):
        memory = world.observe(part, memory)
        assert memory.length <= CONTEXT
    whole = world.observe(states)
    assert memory.length == memory.kept.length == CONTEXT
    assert torch.allclose(memory.kept.hidden, whole.kept.hidden[:, -CONTEXT:], atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(memory.kept.cell, whole.kept.cell, strict=True))
    found = world.predict(memory, ThinkSection(), rng())
    expected = world.predict(whole, ThinkSection(), rng(), positions=CONTEXT)
    assert torch.allclose(found.state, expected.state, atol=1e-10)
    forgetful = world.observe(states[:, -CONTEXT:])
    assert not torch.allclose(world.predict(forgetful, ThinkSection(), rng()).state, found.state, atol=1e-6)


@each_cell
def test_forgetting_hidden_states_leaves_the_memory_it_came_from(cell):
    memory = network_of(cell).observe(states_of(5))
    short = memory.last(2)
    assert (memory.length, short.length, memory.last(9).length) == (5, 2, 5)
    assert torch.equal(short.hidden, memory.hidden[:, -2:])
    assert all(torch.equal(a, b) for a, b in zip(short.cell, memory.cell, strict=True))


BF16 = """
import torch
from ebwm_cli.model.rnn import RecurrentNetwork
network = RecurrentNetwork(8, 2, "{cell}")
torch.nn.init.normal_(network.past.weight)
states = torch.randn(3, 12, 8)
exact = network.observe(states).hidden
with torch.autocast("cpu", torch.bfloat16):
    rounded = network.observe(states[:, 8:], network.observe(states[:, :8])).hidden
rounded.float().sum().backward()
off = (rounded - exact).abs().max().item()
print(torch.ops.mkldnn._is_mkldnn_bf16_supported(), 0 < off < 0.1)
"""


@each_cell
def test_bf16_runs_on_a_cpu_without_its_instructions(cell):
    """oneDNN held to AVX2 refuses an LSTM in bf16, and reads that limit at its first use only: a process apart."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    line = [sys.executable, "-c", BF16.format(cell=cell)]
    told = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert told.stdout.split() == ["False", "True"], told.stderr
