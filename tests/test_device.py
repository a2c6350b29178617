"""What memory is free: what programs can have, within a container's limit."""

import os
from pathlib import Path

import pytest
import torch

from ebwm_cli.run.device import _available, _left_to_the_container, free_memory

CPU = torch.device("cpu")


def test_kept_files_count_as_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  1000 kB\nMemAvailable:  8000 kB\nHugePages: 0\n")
    assert _available(tmp_path / "meminfo") == 8000 * 1024


@pytest.mark.parametrize("content", [None, "MemFree: 1000 kB\n", "no meminfo\n"])
def test_where_the_system_says_it_otherwise_pages_are_asked_for(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "meminfo").write_text(content)
    found = _available(tmp_path / "meminfo")
    assert found is not None
    assert 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("limit", "left"), [("5000", 5000 - (4000 - 1500)), ("2000", 0), ("max", None)])
def test_a_container_has_what_its_limit_leaves(tmp_path: Path, limit: str, left: int | None) -> None:
    assert _left_to_the_container(tmp_path) is None  # there is none
    (tmp_path / "memory.stat").write_text("anon 2500\ninactive_file 1500\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert _left_to_the_container(tmp_path) == left


def test_the_least_of_both_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, container, free in ((9, 4, 4), (3, None, 3), (None, None, None)):
        monkeypatch.setattr("ebwm_cli.run.device._available", lambda found=machine: found)
        monkeypatch.setattr("ebwm_cli.run.device._left_to_the_container", lambda found=container: found)
        assert free_memory(CPU) == free
