from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.page.layout import arrange, content_labels, natural, style_labels, variant_labels
from pipeline.page.records import Picture, Source


def picture(content: str, style: str, **recipe: Any) -> Picture:
    return Picture(
        f"{content}--{style}", "done",
        content=Source(f"/photos/{content}.jpg", "c"), style=style,
        styles=(Source(f"/styles/{style}.jpg", "s"),), recipe={"preset": "default", **recipe},
    )  # fmt: skip


def test_contents_are_rows_and_styles_columns() -> None:
    layout = arrange([picture(c, s) for s in ("scream", "monet") for c in ("b", "a")])
    assert [row.label for row in layout.rows] == ["a", "b"]
    assert [(group.label, group.columns) for group in layout.groups] == [("monet", ("",)), ("scream", ("",))]
    assert [row.cells for row in layout.rows] == [((3,), (1,)), ((2,), (0,))]
    assert (layout.wall, layout.rows_are) == ((), "contents")
    assert layout.differences == ("",) * 4


def test_swept_values_are_columns_within_the_group_of_their_style() -> None:
    values = (0.5, 10, 2)
    layout = arrange([picture(c, s, strength=v) for c in "ab" for s in "xy" for v in values])
    columns = ("strength 0.5", "strength 2", "strength 10")
    assert [(group.label, group.columns) for group in layout.groups] == [("x", columns), ("y", columns)]
    assert layout.differences[:3] == ("strength 0.5", "strength 10", "strength 2")
    assert [len(row.cells) for row in layout.rows] == [6, 6]


def test_of_one_content_the_styles_are_rows() -> None:
    layout = arrange([picture("a", s, strength=v) for s in "xyz" for v in (1, 2)])
    assert [row.label for row in layout.rows] == ["x", "y", "z"]
    assert [group.columns for group in layout.groups] == [("strength 1", "strength 2")]
    assert layout.rows_are == "styles"


def test_of_one_content_the_last_swept_field_makes_the_columns() -> None:
    values = [(strength, seed) for strength in (0.5, 10, 2) for seed in (1, 2)]
    layout = arrange([picture("a", s, strength=v, seed=n) for s in "xy" for v, n in values])
    seeds = ("seed 1", "seed 2")
    assert [(group.label, group.columns) for group in layout.groups] == [
        ("strength 0.5", seeds),
        ("strength 2", seeds),
        ("strength 10", seeds),
    ]
    assert {group.picture for group in layout.groups} == {-1}
    assert (layout.rows_are, [row.label for row in layout.rows]) == ("styles", ["x", "y"])


def test_of_one_pair_the_values_of_one_field_are_rows() -> None:
    layout = arrange([picture("a", "x", strength=v, seed=n) for v in (2, 10) for n in (1, 2, 3)])
    assert (layout.rows_are, [row.label for row in layout.rows]) == ("values", ["strength 2", "strength 10"])
    assert [(group.label, group.columns) for group in layout.groups] == [("", ("seed 1", "seed 2", "seed 3"))]
    assert layout.rows[1].cells == ((3,), (4,), (5,))


def test_single_pairs_are_a_wall() -> None:
    layout = arrange([picture("b", "x"), picture("a", "y"), picture("c", "z")])
    assert layout.rows == ()
    assert layout.wall == (1, 0, 2)
    assert layout.differences == ("b · x", "a · y", "c · z")


def test_one_row_or_one_column_is_a_wall() -> None:
    assert arrange([picture("a", s) for s in "xyz"]).differences == ("x", "y", "z")
    assert arrange([picture(c, "x") for c in "abc"]).differences == ("a", "b", "c")
    assert arrange([picture("a", "x", strength=v) for v in (1, 2)]).differences == (
        "strength 1",
        "strength 2",
    )
    assert arrange([picture("a", "x")]).differences == ("",)
    assert arrange([]).wall == ()


def test_a_pair_with_a_recipe_of_its_own_is_below_the_grid() -> None:
    pictures = [picture(c, s, strength=1) for c in "abcd" for s in "xy"] + [picture("a", "x", strength=2)]
    layout = arrange(pictures)
    assert layout.wall == (8,)
    assert layout.differences[8] == "a · x · strength 2"
    assert [len(row.cells) for row in layout.rows] == [2, 2, 2, 2]


def test_a_job_without_a_record_is_on_the_wall() -> None:
    layout = arrange([*(picture(c, s) for c in "ab" for s in "xy"), Picture("later", "not_begun")])
    assert layout.wall == (4,)
    assert len(layout.rows) == 2


def test_two_pictures_of_one_pair_share_a_cell() -> None:
    layout = arrange([picture(c, s) for c in "ab" for s in "xy"] + [picture("a", "x")])
    assert layout.rows[0].cells[0] == (0, 4)


def test_a_cell_may_be_empty() -> None:
    layout = arrange([picture(c, s) for c in "abc" for s in "xyz"][:-1])
    assert layout.rows[2].cells == ((6,), (7,), ())


def test_only_the_fields_that_tell_recipes_apart_are_named() -> None:
    draft = {"preset": "draft", "size": 256, "steps": [10], "name": "{content}"}
    large = {"preset": "print", "size": 2048, "steps": [90], "name": "other"}
    assert variant_labels([draft, large]) == [("preset draft",), ("preset print",)]
    assert variant_labels([draft, {**draft, "name": "other"}]) == [(), ()]
    both = [{**draft, "seed": seed, "size": size} for seed in (1, 2) for size in (64, 128)]
    assert variant_labels(both)[1] == ("size 128", "seed 1")
    assert variant_labels([{"strength": 1.0}, {"strength": 0.25}, {}]) == [
        ("strength 1",),
        ("strength 0.25",),
        ("strength null",),
    ]
    assert variant_labels([]) == []


def test_contents_of_one_name_show_their_folders() -> None:
    def of(path: str) -> Picture:
        return Picture("n", "done", content=Source(path, ""))

    paths = ["/x/a/me.jpg", "/x/b/me.jpg", "/x/you.jpg", "/x/you.png"]
    assert content_labels([of(path) for path in paths]) == ["a/me.jpg", "b/me.jpg", "you.jpg", "you.png"]
    assert content_labels([of("/x/me.jpg"), of("/x/me.jpg"), of("")]) == ["me", "me", ""]


def test_contents_of_one_path_and_other_bytes_are_numbered() -> None:
    def of(sha256: str) -> Picture:
        return Picture("n", "done", content=Source("/inbox/me.jpg", sha256))

    assert content_labels([of("a"), of("b"), of(""), of("a"), of("c")]) == [
        "me", "me (2)", "me", "me", "me (3)",
    ]  # fmt: skip


def test_styles_of_one_name_are_numbered() -> None:
    other = Picture("n", "done", content=Source("/a.jpg", ""), style="x", styles=(Source("/other.jpg", ""),))
    assert style_labels([picture("a", "x"), other, picture("b", "x")]) == ["x", "x (2)", "x"]


def test_numbers_in_names_are_sorted_by_value() -> None:
    assert sorted(["img10", "img9", "Img1", "", "10", "2.5"], key=natural) == [
        "",
        "2.5",
        "10",
        "Img1",
        "img9",
        "img10",
    ]


names = st.text(max_size=8)


@given(st.lists(st.tuples(names, names, st.sampled_from([0.5, 1, 2]), st.booleans()), max_size=25))
def test_every_picture_is_shown_once(batch: list[tuple[str, str, float, bool]]) -> None:
    pictures = [
        picture(content, style, strength=strength) if known else Picture(content, "failed")
        for content, style, strength, known in batch
    ]
    layout = arrange(pictures)
    shown = [index for row in layout.rows for cell in row.cells for index in cell]
    assert sorted([*shown, *layout.wall]) == list(range(len(pictures)))
    assert all(len(row.cells) == sum(len(group.columns) for group in layout.groups) for row in layout.rows)
    assert len(layout.differences) == len(pictures)
