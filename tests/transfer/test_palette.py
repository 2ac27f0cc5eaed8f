"""How far a palette may go before the edges of the photograph are lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_requests import in_regions, picture, recipe_for
from torch import Tensor

from pipeline.transfer import color_policy
from pipeline.transfer.color import luma, match_colors, match_histograms
from pipeline.transfer.color_policy import recolor
from pipeline.transfer.palette import MOST_LOST, SHARES, edges_lost, limited_palette
from pipeline.transfer.request import Picture, Request
from pipeline.transfer.tensors import to_image


def photograph(seed: int = 0) -> Tensor:
    """Return steps of light in a gradient, with a little noise: edges at every tone (13HW)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0.1, 0.9, 64)[:, None].expand(64, 96)
    steps = 0.25 * ((torch.arange(96) // 12) % 2)
    grey = (0.8 * rows + steps).clamp(0, 1)[None, None].expand(1, 3, 64, 96)
    return (grey + 0.02 * torch.rand(1, 3, 64, 96, generator=generator)).clamp(0, 1)


def painting(dark_share: float) -> Tensor:
    """Return a painting of white with fine grain, of which a part is evenly dark (13HW)."""
    generator = torch.Generator().manual_seed(7)
    values = 0.95 + 0.02 * torch.rand(1, 1, 4000, 1, generator=generator)
    dark = round(4000 * dark_share)
    values[:, :, :dark] = torch.linspace(0.0, 0.9, dark)[None, None, :, None]
    return values.expand(1, 3, 4000, 1).contiguous()


def lost_by_hand(image_BCHW: Tensor, content_BCHW: Tensor) -> float:
    edges = []
    for each in (image_BCHW, content_BCHW):
        values = luma(each.double())[0, 0].numpy()
        rows, columns = values.shape
        edges.append(
            [
                np.hypot(values[y + 1, x] - values[y, x], values[y, x + 1] - values[y, x])
                for y in range(rows - 1)
                for x in range(columns - 1)
            ]
        )
    return 1 - float(np.corrcoef(*edges)[0, 1])


def test_edges_lost_is_one_minus_a_correlation() -> None:
    content, other = photograph()[..., :20, :30], photograph(3)[..., 20:40, 30:60]
    assert edges_lost(other, content) == pytest.approx(lost_by_hand(other, content), abs=1e-9)
    assert edges_lost(content, content) == pytest.approx(0, abs=1e-9)
    assert edges_lost(0.3 * content + 0.5, content) == pytest.approx(0, abs=1e-6)


def test_a_picture_of_one_colour_has_no_edge_to_lose_and_keeps_none() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert edges_lost(photograph()[..., :8, :8], flat) == 0
    assert edges_lost(flat, photograph()[..., :8, :12][..., :8, :8]) == 1


def test_only_selected_pixels_count() -> None:
    content = photograph()
    changed = content.clone()
    changed[..., 48:] = 0.5
    where = torch.zeros(64, 96, dtype=torch.bool)
    where[:, :47] = True
    assert edges_lost(changed, content, where) == pytest.approx(0, abs=1e-9)
    assert edges_lost(changed, content) > 0.1


def test_an_even_palette_is_taken_whole() -> None:
    even = torch.linspace(0, 1, 4000)[None, None, :, None].expand(1, 3, 4000, 1).contiguous()
    assert limited_palette(photograph(), even) is None


def test_a_painting_that_is_nearly_white_gives_as_much_of_its_palette_as_the_edges_allow() -> None:
    content, style = photograph(), painting(0.05)
    whole = match_histograms(content, style).clamp(0, 1)
    assert edges_lost(whole, content) > MOST_LOST
    limited = limited_palette(content, style)
    assert limited is not None
    even = match_colors(content, style).clamp(0, 1)
    lost = {share: edges_lost(torch.lerp(even, whole, share), content) for share in SHARES}
    taken = next((share for share in SHARES if lost[share] <= MOST_LOST), 0.0)
    assert 0 <= taken < 1
    assert torch.allclose(limited, torch.lerp(even, whole, taken))


def whites() -> Picture:
    return Picture.from_image(to_image(painting(0.05).view(1, 3, 50, 80)))


def test_a_request_with_such_a_painting_keeps_the_photographs_edges() -> None:
    content = Picture.from_image(to_image(photograph()))
    image_BCHW = content.tensor((96, 64))
    recolored = recolor(Request(content, [(whites(), 1.0)], recipe_for()), image_BCHW)
    assert edges_lost(match_histograms(image_BCHW, painting(0.05)).clamp(0, 1), image_BCHW) > MOST_LOST + 0.2
    assert edges_lost(recolored, image_BCHW) < MOST_LOST + 0.05
    # The palette is still the painting's: far lighter than the photograph.
    assert luma(recolored).mean() > luma(image_BCHW).mean() + 0.2


def test_a_picture_in_the_palette_stays_in_it() -> None:
    """Else every level would lose a few edges more."""
    content = Picture.from_image(to_image(photograph()))
    request = Request(content, [(whites(), 1.0)], recipe_for())
    once = recolor(request, content.tensor((96, 64)))
    again = recolor(request, once)
    assert (again - once).abs().mean() < 0.01


def test_every_region_has_a_palette_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    request = in_regions(32)
    whole = recolor(request, request.content.tensor((64, 48)))
    request = replace(request, styles=[(whites(), 1.0), *request.styles[1:]])
    limited = recolor(request, request.content.tensor((64, 48)))
    monkeypatch.setattr(color_policy, "limited_palette", lambda *_: None)
    unlimited = recolor(request, request.content.tensor((64, 48)))
    others_HW = request.regions.masks(64, 48)[0, 0] == 0
    assert torch.equal(limited[..., others_HW], whole[..., others_HW])
    assert not torch.allclose(limited[..., ~others_HW], unlimited[..., ~others_HW], atol=0.02)


def test_a_tiny_picture_has_a_palette() -> None:
    request = Request(picture(0, 1, 40), [(whites(), 1.0)], recipe_for())
    assert recolor(request, request.content.tensor((40, 1))).isfinite().all()
