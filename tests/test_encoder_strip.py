"""The strip of docs/encoder.md, on a tiny network."""

from __future__ import annotations

import sys
from pathlib import Path

import encoder_strip
import pytest
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_weights

from pipeline.spec.recipe import Recipe


@pytest.fixture
def strip(monkeypatch):
    """Return a function that runs the command, with one step a picture."""
    monkeypatch.setattr(encoder_strip, "Recipe", lambda size: Recipe(size=size, steps=1, recolor=False))
    save_file(tiny_weights(), "tiny.safetensors")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["encoder_strip.py", "--out=out.jpg", *arguments])
        encoder_strip.main()

    return run


def test_a_row_for_every_pair_and_a_column_for_every_encoder(strip, capsys):
    strip("one=tiny.safetensors", "the other=tiny.safetensors", "--size=48")
    gap, caption = encoder_strip.GAP, encoder_strip.CAPTION
    with Image.open("out.jpg") as sheet:
        assert sheet.size == (4 * (48 + gap) - gap, caption + 2 * (32 + gap) - gap)
    assert "out.jpg: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["one=none.pth"], "none.pth cannot be read"),
        (["one=junk.safetensors"], "junk.safetensors is damaged"),
        (["one=tiny.safetensors", "--size=24"], "Use size"),
    ],
)
def test_what_cannot_be_used_is_refused(strip, arguments, said):
    Path("junk.safetensors").write_bytes(b"junk")
    with pytest.raises(SystemExit, match=said):
        strip(*arguments)
    assert not Path("out.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny.safetensors"], "expected CAPTION=FILE, got 'tiny.safetensors'"),
        (["one=tiny.safetensors", "--out=out.gif"], "expected a .jpg in a folder that is there"),
        (["one=tiny.safetensors", "--out=none/out.jpg"], "expected a .jpg in a folder that is there"),
        (["one=tiny.safetensors", "--size=8"], "16 pixels or more"),
    ],
)
def test_options_out_of_range_are_usage_errors(strip, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        strip(*arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
