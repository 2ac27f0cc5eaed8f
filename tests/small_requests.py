"""Requests of small pictures, for the tests of `transfer` from the session down."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tiny import random_image

from pipeline.spec.recipe import Recipe
from pipeline.transfer.masks import Regions
from pipeline.transfer.reports import Outcome
from pipeline.transfer.request import Picture, Request
from pipeline.transfer.session import Session
from pipeline.transfer.tensors import to_image
from pipeline.vgg.weights import EncoderWeights


def picture(seed: int = 0, height: int = 48, width: int = 64) -> Picture:
    return Picture.from_image(to_image(random_image(height, width, seed)))


def one(session: Session, request: Request, weights: EncoderWeights) -> Outcome:
    (outcome,) = session.stylize([request], weights)
    return outcome


def image_of(outcome: Outcome) -> Image.Image:
    return to_image(outcome.image_BCHW)


def recipe_for(**fields) -> Recipe:
    return Recipe(**{"size": 68, "pyramid": 48, "steps": 3, **fields})


def plain_recipe(**fields) -> Recipe:
    """One that gives no palette to so small a picture, which would take longer than its steps."""
    return recipe_for(recolor=False, **fields)


def in_regions(edge: int) -> Request:
    """Reds on the left of `edge` (of 64) and blues on the right."""
    noise = random_image(48, 64, 7)
    reds, blues = (noise * torch.tensor(scale)[:, None, None] for scale in ((1, 0.1, 0.1), (0.1, 0.1, 1)))
    styles = [(Picture.from_image(to_image(each)), 1.0) for each in (reds, blues)]
    planes_KHW = np.zeros((2, 48, 64), np.uint8)
    planes_KHW[0, :, :edge], planes_KHW[1, :, edge:] = 255, 255
    return Request(picture(0), styles, recipe_for(), None, Regions(planes_KHW, "m.png", ("a", "b")))


def half_hidden() -> Picture:
    """A dark picture that shows in its left half; the rest is white beneath transparency."""
    image = to_image(random_image(48, 64) * 0.3).convert("RGBA")
    image.paste((0, 255, 0, 0), (32, 0, 64, 48))
    return Picture.from_image(image)
