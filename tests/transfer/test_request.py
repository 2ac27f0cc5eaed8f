from __future__ import annotations

from PIL import Image

from pipeline.transfer.request import Picture


def half(alpha: int) -> Picture:
    """A white picture whose right half has this much alpha."""
    image = Image.new("RGBA", (8, 4), (255, 255, 255, 255))
    image.paste((255, 255, 255, alpha), (4, 0, 8, 4))
    return Picture.from_image(image)


def test_a_picture_without_a_file_is_identified_by_its_pixels_and_its_transparency():
    white = Picture.from_image(Image.new("RGB", (8, 4), "white"))
    pictures = [white, Picture.from_image(Image.new("RGB", (4, 8), "white")), half(0), half(100)]
    assert len({each.sha256 for each in pictures}) == 4
    assert half(0).sha256 == half(0).sha256


def test_the_visible_pixels_are_known_at_any_size():
    visible_HW = half(0).visible((4, 2))
    assert visible_HW is not None
    assert visible_HW.tolist() == [[True, True, False, False]] * 2
    assert Picture.from_image(Image.new("RGB", (8, 4))).visible((4, 2)) is None
