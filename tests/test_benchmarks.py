"""The benchmarks' own arithmetic; what they time is not asserted anywhere."""

from __future__ import annotations

import argparse
import sys
from xml.etree import ElementTree

import pytest
import torch
from tiny import random_image, tiny_weights

from benchmarks import common, growth, jobs, memory, ours, pictures, precision, to_loss
from benchmarks.__main__ import Bar, bars, parts, report
from benchmarks.command import SAME_LOSS
from benchmarks.ours import Ours, build_encoder, style_targets
from benchmarks.reference import CONTENT_LAYER, STYLE_LAYERS, Loop, Network, fill_history
from pipeline.spec.recipe import Recipe
from pipeline.transfer.tensors import to_image

SAME = Recipe.model_validate({**SAME_LOSS, "size": 48})


def our_loop(pictures_together: int = 1) -> Ours:
    encoder = build_encoder(tiny_weights(), SAME)
    content = torch.cat([random_image(48, 48, seed) for seed in range(pictures_together)])
    targets = style_targets(encoder, SAME, random_image(48, 48, 9), pictures_together)
    return Ours(encoder, SAME, content, targets, content, torch.float32)


def test_both_sides_have_one_loss():
    loop = Loop(Network(tiny_weights()), random_image(48, 48, 0), random_image(48, 48, 9))
    expected = loop.loss(random_image(48, 48, 0)).item()
    assert our_loop().step().total.item() == pytest.approx(expected, rel=1e-4)


def test_both_sides_have_the_same_layers():
    assert set(SAME_LOSS["content_layers"]) == {CONTENT_LAYER}
    assert tuple(SAME_LOSS["style_layers"]) == STYLE_LAYERS


def test_pictures_together_are_steps_of_their_own():
    together = our_loop(2).step().total
    assert together.shape == (2,)
    assert together[0].item() == pytest.approx(our_loop().step().total[0].item(), rel=1e-4)


def test_full_history_holds_a_hundred_pairs():
    loop = Loop(Network(tiny_weights()), random_image(32, 32), random_image(32, 32, 9))
    fill_history(loop)
    state = loop.optimizer.state[loop.canvas]
    assert len(state["old_dirs"]) == 100


def test_history_survives_a_change_of_precision():
    ours = our_loop()
    ours.step()
    optimizer = ours.optimizer
    ours.compute_in(torch.float64)
    assert ours.objective.network.dtype == torch.float64
    assert ours.optimizer is optimizer


def test_best_of_returns_the_best_canvas_and_not_the_last():
    ours = our_loop()
    best = to_loss.best_of(ours, 6)
    first = our_loop().step().total
    ours.canvas_BCHW.copy_(best)
    assert ours.step().total <= first


def test_cuts_differ_and_repeat(monkeypatch):
    # Painting itself takes seconds.
    def paint(width, height):
        return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0)).numpy()

    names = {"lake": "content", "lighthouse": "content", "swirls": "styles"}
    monkeypatch.setattr(
        pictures.painter(), "PICTURES", {name: (kind, 2 / 3, paint) for name, kind in names.items()}
    )
    pictures.painting.cache_clear()
    cuts = [pictures.cut("content", number, 32).tobytes() for number in range(6)]
    assert len(set(cuts)) == 6
    assert pictures.cut("content", 3, 32).tobytes() == cuts[3]
    assert pictures.cut("styles", 0, 32, "landscape").size == (32, 21)
    pictures.painting.cache_clear()


def test_precisions_are_judged_by_one_loss(tmp_path):
    encoder = build_encoder(tiny_weights(), Recipe())
    pair = (tmp_path / "a.png", tmp_path / "b.png")
    for seed, path in enumerate(pair):
        to_image(random_image(64, 48, seed)).save(path)
    recipe = Recipe(size=64, pyramid=45, steps=(4, 4), margin=0)
    row = precision.compare(encoder, recipe, pair)
    assert row["float32"] == pytest.approx(0, abs=1e-4)
    assert 1e-5 < abs(row["bfloat16"]) < 0.5  # another network than in float32
    text = precision.report({"rows": [row, {**row, "float32": 0.02}]})
    assert f"| a, b | {common.cell(row['loss'])} |" in text
    assert "| most | – | +2.00% |" in text


def test_seconds_to_is_the_first_time_at_or_below():
    curve = [(1.0, 9.0), (2.0, 3.0), (3.0, 4.0), (4.0, 2.0)]
    assert to_loss.seconds_to(curve, 3.0) == 2.0
    assert to_loss.seconds_to(curve, 1.0) is None


def test_summary_of_curves():
    arguments = argparse.Namespace(size=64, steps=4)
    reference = [(float(second), 10.0 / second) for second in range(1, 5)]
    result = to_loss.summary(arguments, reference, [(0.5, 6.0), (1.0, 2.5), (2.0, 2.0)], 2.5)
    assert result["reference_over_ours"] == 4.0
    assert result["ours_steps_at_full_size"] == 2
    assert result["halfway"]["reference_over_ours"] == 2.0
    assert "64 x 64" in to_loss.report(result)


def test_summary_says_when_the_loss_was_not_reached():
    result = to_loss.summary(
        argparse.Namespace(size=64, steps=2), [(1.0, 2.0), (2.0, 1.0)], [(1.0, 5.0)], 1.0
    )
    assert result["reference_over_ours"] is None
    assert "not reached" in to_loss.report(result)


def test_curves_are_written(tmp_path):
    to_loss.write_curves(tmp_path / "c.csv", [(1.0, 2.0)], [(0.5, 2.0)])
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "program,seconds,loss",
        "reference,1.000,2",
        "ours,0.500,2",
    ]


def test_largest_square_meets_the_limit():
    assert memory.largest_square(0, 24e9 / 2048**2) == 2048
    assert memory.largest_square(30e9, 1000) == 0


def test_memory_is_a_line_through_its_peaks():
    peaks = {256: 1_000_000 + 256**2 * 500, 512: 1_000_000 + 512**2 * 500}
    result = memory.fit(peaks)
    assert result["bytes_per_pixel"] == pytest.approx(500)
    both = {"sizes": [256, 512], "sides": {"reference": result, "ours": memory.fit({256: 1, 512: 2})}}
    assert memory.ratio(both, 512) == peaks[512] / 2
    assert memory.ratio(both, 1024) is None
    assert "512 x 512" in memory.report(both)


def test_large_squares_are_drawn_and_listed():
    row = {"encoder": "vgg19-slim", "adjusted": ["tiles of 9 x 9 pixels: the memory was too small"]}
    rows = [
        {**row, "megapixels": m, "limit_mb": 6000 * (m > 1), "seconds": s, "peak_bytes": 1e9 * m}
        | {"estimate_bytes": 5e8}
        for m, s in ((1, 0.3), (4, None), (64, 50.0))
    ]
    drawn = ElementTree.fromstring(memory.draw_large(rows))
    lines = [line.get("points").split() for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line) for line in lines] == [1, 2, 1, 1]  # memory and time; untiled and held to a limit
    assert all(40 <= float(y) <= 270 for line in lines for y in (point.split(",")[1] for point in line))
    assert "| 64 megapixels, vgg19-slim, 6 GB | 50 | 64 | 0.5 | tiles of 9 x 9 pixels |" in memory.report(
        {"large": rows}
    )


def test_a_large_picture_is_made_and_measured(monkeypatch, tmp_path):
    given = {"encoder": "vgg19-slim", "width": 48, "height": 40, "limit_mb": 0, "steps": 2, "threads": 1}
    monkeypatch.setattr(ours, "keep_freed_memory", lambda: None)  # it would be kept by all tests
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    found = ours.large_picture(argparse.Namespace(**given, scratch=tmp_path))
    assert found["adjusted"] == ()
    assert found["seconds"] > 0
    assert found["estimate_bytes"] > 0
    assert list(found["peaks_by_step"]) == ["pictures", "1", "2", "end"]


def test_jobs_are_scaled_to_an_hour():
    row = jobs.summary("mixed", 12, reference_s_per_job=30, ours_s=90)
    assert (row["reference_s"], row["reference_over_ours"]) == (360, 4)
    assert (row["reference_per_hour"], row["ours_per_hour"]) == (120, 480)
    assert "scaled" in jobs.report({"jobs": 12, "size": 256, "steps": 4, "of": 2, "rows": [row]})


def test_growth_takes_the_median_of_the_ratios():
    row = growth.summary(512, 1, {"reference": [10.0, 40.0, 30.0], "ours": [5.0, 10.0, 10.0]})
    assert row["reference_over_ours"] == 3
    assert growth.summary(512, 1, {"ours": [1.0]})["reference_over_ours"] is None
    assert growth.repeats_at(2048, 1, 7) < growth.repeats_at(512, 1, 7) < growth.repeats_at(256, 1, 7)


@pytest.mark.parametrize("side", growth.SIDES)
def test_growth_steps_on_both_sides(side):
    contents = random_image(32, 32)
    step = growth.make_step(side, tiny_weights(), contents, random_image(32, 32, 9), "cpu")
    step()
    step()


def test_a_bar_is_kept_missed_or_not_measured():
    assert Bar("", 4.0, 4).verdict == "pass"
    assert Bar("", 3.9, 4).verdict == "miss"
    assert Bar("", 0.9, 0.95, at_most=True).verdict == "pass"
    assert Bar("", None, 4).verdict == "not measured"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_report_with_nothing_measured_still_names_every_bar(device, tmp_path):
    text = report(device, {}, {"growth": "it broke"})
    assert text.count("not measured") == len(bars(device, {})) == 4
    assert "growth failed" in text
    assert {"growth", "to_loss", "jobs"} <= set(parts(device, tmp_path))


def test_tables():
    assert common.markdown_table(["a", "b"], [[1, None], [2.3456, 1234.5]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | – |",
        "| 2.35 | 1234 |",
    ]


def test_a_child_that_fails_is_told_with_what_it_said():
    with pytest.raises(SystemExit, match="No module named"):
        common.run_module("no_such_module")


def test_a_child_is_measured():
    ran = common.run_module("platform")
    assert ran.stdout
    assert ran.peak_bytes > 1 << 20
    assert ran.seconds > 0


def test_a_command_holds_no_path_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "jobs.py"), "--jobs", "2"])
    assert common.command() == "python -m benchmarks.jobs --jobs 2"
