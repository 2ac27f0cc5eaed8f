"""Paint the example pictures of this project from nothing but numbers.

Two photo-like content pictures (a lake, a lighthouse) and three style pictures (swirling brush strokes, a
mosaic, a woodcut) are computed with numpy and Pillow.  Every random choice is seeded, so the same call always
paints the same pictures.

    python examples/paint.py                      # all five, next to this script
    python examples/paint.py --only lake --out pictures
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray

# ---------------------------------------------------------------------------------------------------------
# Colour and interpolation
# ---------------------------------------------------------------------------------------------------------


def rgb(code: str) -> Array:
    """Turn '#rrggbb' into three floats in [0, 1]."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def ramp(t: Array, stops: str) -> Array:
    """Colour every value of `t` by linear interpolation between stops like '0 #000000, 1 #ffffff'."""
    pairs = [stop.split() for stop in stops.split(",")]
    colours = np.stack([rgb(code) for _, code in pairs])
    positions = [float(position) for position, _ in pairs]
    channels = [np.interp(t, positions, colours[:, c]) for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def smoothstep(low: Array | float, high: Array | float, x: Array) -> Array:
    """Rise smoothly from 0 at `low` to 1 at `high` (falls when low > high)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array, t: Array | float) -> Array:
    """Blend colours `a` and `b`; `t` is a scalar or one weight per pixel."""
    weight = np.asarray(t, np.float32)
    return a + (b - a) * (weight[..., None] if weight.ndim else weight)


# ---------------------------------------------------------------------------------------------------------
# Noise
# ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _noise_tables(seed: int) -> tuple[Array, Array, Array]:
    """A shuffled permutation of 0..255 and 256 unit vectors."""
    rng = np.random.default_rng(seed)
    angles = rng.permutation(256) * (2 * np.pi / 256)
    return rng.permutation(256), np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def gradient_noise(x: Array, y: Array, seed: int = 0) -> Array:
    """Gradient noise, about -1..1, with one feature per unit of `x` and `y`."""
    permutation, cosine, sine = _noise_tables(seed)
    x, y = np.broadcast_arrays(np.asarray(x, np.float32), np.asarray(y, np.float32))
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    column, row = x0.astype(np.int32), y0.astype(np.int32)

    def corner(dx: int, dy: int) -> Array:
        index = permutation[(permutation[(column + dx) & 255] + row + dy) & 255]
        return cosine[index] * (fx - dx) + sine[index] * (fy - dy)

    u = fx * fx * fx * (fx * (fx * 6 - 15) + 10)
    v = fy * fy * fy * (fy * (fy * 6 - 15) + 10)
    top, left_bottom = corner(0, 0), corner(0, 1)
    top += u * (corner(1, 0) - top)
    left_bottom += u * (corner(1, 1) - left_bottom)
    return 1.5 * (top + v * (left_bottom - top))


def fractal(x: Array, y: Array, octaves: int, seed: int = 0, gain: float = 0.5) -> Array:
    """Sum of gradient noise over `octaves` scales, about -1..1."""
    total, amplitude, norm = 0.0, 1.0, 0.0
    for octave in range(octaves):
        scale = 2.03**octave
        total = total + amplitude * gradient_noise(x * scale + 17.3 * octave, y * scale, seed + octave)
        norm += amplitude
        amplitude *= gain
    return total / norm * 1.4


def billow(x: Array, y: Array, octaves: int, seed: int = 0, gain: float = 0.5) -> Array:
    """Puffy noise in 0..1: rounded bumps that meet in sharp creases."""
    total, amplitude, norm = 0.0, 1.0, 0.0
    for octave in range(octaves):
        scale = 2.03**octave
        noise = gradient_noise(x * scale + 31.7 * octave, y * scale, seed + octave)
        total = total + amplitude * np.abs(noise)
        norm += amplitude
        amplitude *= gain
    return 1.6 * total / norm


def ridged(x: Array, y: Array, octaves: int, seed: int = 0) -> Array:
    """Ridged multifractal in about 0..1: sharp crests, with detail only near the crests."""
    total, amplitude, weight = 0.0, 0.5, 1.0
    for octave in range(octaves):
        scale = 2.07**octave
        signal = 1 - np.abs(gradient_noise(x * scale + 9.1 * octave, y * scale, seed + octave))
        signal = signal * signal * weight
        weight = np.clip(signal * 1.9, 0, 1)
        total = total + amplitude * signal
        amplitude *= 0.5
    return total


def warp(x: Array, y: Array, amount: float, scale: float, seed: int = 0) -> tuple[Array, Array]:
    """Push coordinates around by smooth noise, so that regular things look grown."""
    dx = fractal(x / scale, y / scale, 2, seed)
    dy = fractal(x / scale + 5.2, y / scale + 1.3, 2, seed + 50)
    return x + amount * dx, y + amount * dy


def cells(x: Array, y: Array, seed: int = 0) -> tuple[Array, Array]:
    """Distance to the nearest of one random point per unit square, and that point's random value."""
    permutation, cosine, sine = _noise_tables(seed)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    best = np.full(np.shape(x), np.inf, np.float32)
    value = np.zeros(np.shape(x), np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            index = permutation[(permutation[(column + dx) & 255] + row + dy) & 255]
            px = column + dx + 0.5 + 0.4 * cosine[index]
            py = row + dy + 0.5 + 0.4 * sine[index]
            distance = (x - px) ** 2 + (y - py) ** 2
            closer = distance < best
            best = np.where(closer, distance, best)
            value = np.where(closer, index / 255, value)
    return np.sqrt(best), value.astype(np.float32)


# ---------------------------------------------------------------------------------------------------------
# Canvas
# ---------------------------------------------------------------------------------------------------------


def pixel_grid(width: int, height: int) -> tuple[Array, Array]:
    """Coordinates of all pixel centres in units of the picture's height: x to the right, y down."""
    x = (np.arange(width, dtype=np.float32) + 0.5) / height
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    return np.meshgrid(x, y)


def blur(image: Array, radius: float) -> Array:
    """Gaussian blur of a one- or three-channel picture, by three box blurs with mirrored borders."""
    width = max(1, round(radius))
    result = np.asarray(image, np.float64)
    for axis in (0, 1):
        for _ in range(3):
            padding = [(0, 0)] * result.ndim
            padding[axis] = (width + 1, width)
            total = np.cumsum(np.pad(result, padding, mode="symmetric"), axis)
            span = result.shape[axis]
            upper = np.take(total, range(2 * width + 1, 2 * width + 1 + span), axis)
            result = (upper - np.take(total, range(span), axis)) / (2 * width + 1)
    return result.astype(np.float32)


def sample(image: Array, column: Array, row: Array) -> Array:
    """Read a picture at fractional positions (bilinear, clamped at the border)."""
    height, width = image.shape[:2]
    column, row = np.clip(column, 0, width - 1.001), np.clip(row, 0, height - 1.001)
    c0, r0 = column.astype(np.int32), row.astype(np.int32)
    fc, fr = column - c0, row - r0
    if image.ndim == 3:
        fc, fr = fc[..., None], fr[..., None]
    top = image[r0, c0] * (1 - fc) + image[r0, c0 + 1] * fc
    bottom = image[r0 + 1, c0] * (1 - fc) + image[r0 + 1, c0 + 1] * fc
    return top * (1 - fr) + bottom * fr


def to_image(array: Array) -> Image.Image:
    """Turn floats in [0, 1] into an 8-bit picture; a little dither hides banding."""
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, array.shape).astype(np.float32)
    return Image.fromarray(np.clip(array * 255 + dither + 0.5, 0, 255).astype(np.uint8))


def paste(canvas: Array, layer: Image.Image) -> Array:
    """Lay an RGBA drawing over the canvas."""
    over = np.asarray(layer, np.float32) / 255
    return mix(canvas, over[..., :3], over[..., 3])


def ink(colour: Array, alpha: float = 1.0) -> tuple[int, int, int, int]:
    """An RGBA colour as Pillow's drawing functions want it."""
    red, green, blue = (int(255 * v) for v in np.clip(colour, 0, 1))
    return red, green, blue, int(255 * alpha)


def emboss(height: Array, strength: float) -> Array:
    """Slope of a relief towards a light at the upper left, about -1..1."""
    dy, dx = np.gradient(height)
    return np.tanh(strength * (dx + dy))


# ---------------------------------------------------------------------------------------------------------
# Landscape: a perspective view of a height field
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """A level camera `eye` units above the water, looking along z; rows and focal length in pixels."""

    width: int
    height: int
    horizon: float
    focal: float
    eye: float

    def project(self, x: float, height: float, z: float) -> tuple[float, float]:
        """Pixel position of a point in the world."""
        return self.width / 2 + self.focal * x / z, self.horizon - self.focal * (height - self.eye) / z


@dataclass(frozen=True)
class Terrain:
    """Height field sampled along one ray per picture column: rows are depths, columns are rays."""

    x: Array
    z: Array
    height: Array
    slope_x: Array
    slope_z: Array
    sunlit: Array


@dataclass(frozen=True)
class View:
    """For each pixel the terrain sample it sees; `hit` is False where it sees sky."""

    hit: Array
    index: Array
    fraction: Array

    def pick(self, grid: Array, where: Array) -> Array:
        """Values of a terrain grid as the pixels in the mask `where` see them (one row per pixel)."""
        columns, index = np.nonzero(where)[1], self.index[where]
        near, far = grid[index - 1, columns], grid[index, columns]
        return near + (far - near) * self.fraction[where]


def sample_terrain(
    camera: Camera, depths: Array, height_at: Callable[[Array, Array], Array], sun_slope: float
) -> Terrain:
    """Evaluate `height_at(x, z)` along the camera's rays; the sun shines from the left, `sun_slope` steep."""
    margin = camera.width // 4
    ray = (np.arange(-margin, camera.width, dtype=np.float32) + 0.5 - camera.width / 2) / camera.focal
    z = np.broadcast_to(depths[:, None].astype(np.float32), (len(depths), len(ray)))
    x = z * ray
    height = height_at(x, z).astype(np.float32)
    slope_x = np.gradient(height, axis=1) / (z / camera.focal)
    along = np.gradient(height, axis=0) / np.gradient(z, axis=0)
    slope_z = along - ray * slope_x
    # Light travels along x, so what shades a point is the highest sun ray grazing anything to its left.
    shade = np.maximum.accumulate(height + x * sun_slope, axis=1) - x * sun_slope
    sunlit = smoothstep(0.012, 0.0, (shade - height) / z)
    grids = (x, z, height, slope_x, slope_z, sunlit)
    return Terrain(*(np.ascontiguousarray(grid[:, margin:]) for grid in grids))


def view_terrain(camera: Camera, terrain: Terrain, mirrored_beyond: float | None = None) -> View:
    """Find what every pixel sees; `mirrored_beyond` gives the view reflected by water up to that depth."""
    if mirrored_beyond is None:
        tangent = (np.maximum(terrain.height, 0) - camera.eye) / terrain.z
    else:
        dry = (terrain.height > 0) & (terrain.z > mirrored_beyond)
        tangent = np.where(dry, (terrain.height + camera.eye) / terrain.z, -1)
    skyline = np.maximum.accumulate(tangent, axis=0)
    wanted = (camera.horizon - np.arange(camera.height) - 0.5) / camera.focal
    index = np.stack([np.searchsorted(skyline[:, c], wanted) for c in range(camera.width)], axis=1)
    hit = index < len(skyline)
    index = np.clip(index, 1, len(skyline) - 1)
    columns = np.arange(camera.width)[None, :]
    near, far = tangent[index - 1, columns], tangent[index, columns]
    fraction = np.clip((wanted[:, None] - near) / np.maximum(far - near, 1e-9), 0, 1)
    return View(hit, index, fraction.astype(np.float32))


def lambert(slope_x: Array, slope_z: Array, light: tuple[float, float, float]) -> Array:
    """Cosine between the terrain's normal and the direction (x, up, z) towards the light."""
    lx, ly, lz = np.array(light) / np.linalg.norm(light)
    return (ly - slope_x * lx - slope_z * lz) / np.sqrt(1 + slope_x**2 + slope_z**2)


# ---------------------------------------------------------------------------------------------------------
# Lake
# ---------------------------------------------------------------------------------------------------------


def lake_height(x: Array, z: Array) -> Array:
    """Bare ground of the far side of the lake, which fills what lies below zero."""
    ray = x / z
    wx, wz = warp(x, z, 9, 60, seed=3)
    crest = ridged(wx / 95, wz / 95, 8, seed=11)
    gullies = ridged(wx / 34 + 0.2 * crest, wz / 50, 6, seed=15)
    massif = (
        0.16 + 0.98 * np.exp(-(((ray - 0.19) / 0.16) ** 2)) + 0.66 * np.exp(-(((ray + 0.37) / 0.15) ** 2))
    )
    back = 0.50 * smoothstep(300, 480, z)
    mountains = smoothstep(100, 270, z) * (massif + back) * (10 + 66 * crest + 19 * gullies)
    foothills = (
        13 * smoothstep(0.12, 0.5, np.abs(ray + 0.06)) * smoothstep(90, 130, z) * smoothstep(230, 150, z)
    )
    foothills *= 0.6 + 0.8 * fractal(x / 34, z / 34, 4, seed=23)
    headland = 22 * np.exp(-(((x - 26) / 11) ** 2)) + 40 * smoothstep(-16, -46, x)
    shore = 92 + 9 * fractal(x / 26, z / 40, 4, seed=5) - headland
    banks = 1.4 * np.tanh((z - shore) / 7) + 4 * smoothstep(2, 60, z - shore)
    hills = 1.6 * fractal(x / 16, z / 16, 4, seed=21) * smoothstep(-2, 14, z - shore)
    return banks + hills + mountains + foothills


def lake_bank(x: Array, z: Array) -> Array:
    """The shore at the viewer's feet, with boulders."""
    inland = 11.4 + 3.4 * smoothstep(-1.5, 5.5, x) + 1.5 * fractal(x / 2.3, z / 6, 3, seed=25) - z
    bank = 0.7 * np.tanh(inland / 1.6) + 0.10 * fractal(x * 1.1, z * 1.1, 5, seed=27)
    return np.maximum(bank + lake_rocks(x, z, inland), -1)


def lake_rocks(x: Array, z: Array, inland: Array) -> Array:
    """Boulders strewn along the near shore."""
    rng = np.random.default_rng(83)
    wx, wz = warp(x, z, 0.22, 0.7, seed=84)
    shore = z + inland
    rough = 1 + 0.30 * fractal(x * 1.6, z * 1.6, 5, seed=82)
    height = np.zeros_like(x)
    for along in np.linspace(-5.6, 6.2, 26):
        radius = 0.16 + 0.62 * rng.uniform() ** 2.2
        offset = rng.uniform(-0.5, 0.9)
        distance = ((wx - along - rng.normal(0, 0.25)) / 1.25) ** 2 + (wz - shore + offset) ** 2
        height = np.maximum(height, np.sqrt(np.clip(1 - distance / radius**2, 0, 1)) * radius * 0.8)
    return height * rough


def lake_trees(x: Array, z: Array, ground: Array) -> tuple[Array, Array]:
    """Height of the conifers standing on the ground, and a random value for each of them."""
    size = 1.0
    distance, value = cells(x / size, z / size, seed=8)
    grove = fractal(x / 22, z / 22, 3, seed=31)
    tree_line = 25 + 9 * fractal(x / 18, z / 18, 3, seed=33)
    dense = smoothstep(0.25, 1.0, ground) * smoothstep(tree_line, tree_line - 9, ground)
    dense *= smoothstep(-0.42 + 0.5 * (value - 0.5), -0.1 + 0.5 * (value - 0.5), grove) * (z > 30)
    tall = (0.8 + 2.9 * value**1.5) * dense
    return tall * np.clip(1 - distance / 0.62, 0, 1), value


def lake_sky(camera: Camera, sun: tuple[float, float]) -> Array:
    """Evening sky: gradient, sun with glow, and two decks of cloud lit from the sun."""
    x, y = pixel_grid(camera.width, camera.height)
    up = np.maximum(camera.horizon / camera.height - y, 0.0)
    distance = np.hypot(x - sun[0], (y - sun[1]) * 1.25)
    sky = ramp(up, "0 #f9c98a, 0.08 #f6bd8c, 0.2 #dfb3a0, 0.33 #9db0c0, 0.5 #5f8cb6, 0.6 #44749f")
    glow = np.exp(-distance / 0.16)[..., None] * rgb("#ffdf9a") * 0.75
    glow += np.exp(-distance / 0.45)[..., None] * rgb("#ff9a4a") * 0.34
    sky = 1 - (1 - np.clip(sky, 0, 1)) * (1 - np.clip(glow, 0, 1))
    for seed, scale, base, reach in ((71, 1.0, 0.04, 0.16), (75, 0.62, 0.02, 0.0)):
        sky = lake_cloud_deck(sky, x, up, sun, distance, (seed, scale, base, reach))
    disc = smoothstep(0.034, 0.028, np.hypot(x - sun[0], y - sun[1]))
    return mix(sky, rgb("#fff6d8"), disc)


def lake_cloud_deck(
    sky: Array,
    x: Array,
    up: Array,
    sun: tuple[float, float],
    distance: Array,
    deck: tuple[int, float, float, float],
) -> Array:
    """Lay one flat deck of clouds, seen in perspective, over the sky."""
    seed, scale, base, reach = deck
    far = 1 / (up + 0.10)
    u, v = (x - 0.75) * far * scale, far * 1.9 * scale
    u, v = warp(u, v, 0.35, 1.1, seed)
    toward_u, toward_v = (sun[0] - x) * far * 0.10, 0.16
    density = fractal(u, v, 7, seed, gain=0.54)
    toward_sun = fractal(u + toward_u, v + toward_v, 5, seed, gain=0.54)
    cover = smoothstep(base, base + 0.5, density + reach * smoothstep(0.1, 0.5, up))
    cover *= smoothstep(0.0, 0.06, up) * 0.92
    lit = np.clip(0.55 + 1.5 * (density - toward_sun) - 0.35 * cover, 0, 1)
    warm = np.exp(-distance / 0.55)
    light = mix(rgb("#f4b9a2"), rgb("#ffe2a8"), smoothstep(0.1, 0.7, warm))
    shadow = mix(rgb("#77809f"), rgb("#b9807c"), smoothstep(0.1, 0.75, warm))
    return mix(sky, mix(shadow, light, lit), cover)


def lake_land(camera: Camera, view: View, terrain: Terrain, trees: Array, kind: Array) -> Array:
    """Colours of all pixels that see land: shaded mountains and forests that dissolve into the haze."""
    seen = view.hit
    x, z, height = (view.pick(grid, seen) for grid in (terrain.x, terrain.z, terrain.height))
    slope_x, slope_z = view.pick(terrain.slope_x, seen), view.pick(terrain.slope_z, seen)
    tree, sunlit = view.pick(trees, seen), view.pick(terrain.sunlit, seen)
    steep = np.hypot(slope_x, slope_z)
    grain = fractal(x * 0.9, z * 0.9 + height * (0.7 + 3.5 * (z < 30)), 4, seed=41)
    rock = mix(rgb("#6b6068"), rgb("#a58f80"), 0.5 + 0.5 * grain)
    meadow = mix(rgb("#59663a"), rgb("#8c8446"), 0.5 + 0.5 * grain)
    ground = mix(meadow, rock, smoothstep(0.7, 1.2, steep + 0.25 * grain + 0.012 * (height - 26)))
    snow_line = 34 + 9 * fractal(x / 14, z / 14, 4, seed=45)
    snow = smoothstep(snow_line - 3, snow_line + 8, height) * smoothstep(2.6, 1.3, steep + 0.5 * grain)
    ground = mix(ground, rgb("#eef0f6"), snow)
    autumn = np.mod(view.pick(kind, seen) * 61 + 0.3 * fractal(x / 20, z / 20, 2, seed=49), 1)
    needles = ramp(autumn, "0 #16291f, 0.5 #26402a, 0.8 #3f5229, 0.9 #8a7a2c, 1 #b5832e")
    needles = needles * (0.55 + 0.65 * smoothstep(0.2, 2.2, tree))[..., None]
    ground = mix(ground, needles, smoothstep(0.02, 0.25, tree))
    direct = np.clip(lambert(slope_x, slope_z, (-0.85, 0.42, -0.25)), 0, 1) * (0.08 + 0.92 * sunlit)
    ambient = 0.36 + 0.3 / np.sqrt(1 + steep**2)
    lit = ground * (direct[..., None] * rgb("#ffb066") * 2.2 + ambient[..., None] * rgb("#7488bd") * 0.85)
    fog = 1 - np.exp(-np.maximum(z - 60, 0) / 330)
    bank = fractal(x / 40, z / 25, 3, seed=47)
    mist = (0.75 + 0.45 * bank) * np.exp(-np.maximum(height - 2, 0) / 7.0) * smoothstep(80, 185, z)
    column = np.nonzero(seen)[1] / camera.height
    haze = mix(rgb("#a3a9c4"), rgb("#f7c48c"), np.exp(-np.abs(column - LAKE_SUN[0]) / 0.30))
    return mix(lit / (1 + 0.25 * lit), haze, np.clip(fog + mist * (1 - fog), 0, 1))


LAKE_SUN = (0.50, 0.335)


def lake_water(camera: Camera, mirror: Array, wet: Array, x: Array, z: Array) -> Array:
    """Colours of the pixels in the mask `wet`: a rippled, darkened mirror image and the sun's glitter."""
    row, column = np.nonzero(wet)
    unit = camera.height
    near = np.clip((row - camera.horizon) / (camera.height - camera.horizon), 0, 1)
    calm = smoothstep(-0.2, 0.5, fractal(x / 30, z / 9, 3, seed=66))
    ripple = gradient_noise(x * 0.45, z * 1.1, 61) + 0.6 * gradient_noise(x * 1.2, z * 2.9, 62)
    ripple += 0.5 * gradient_noise(x * 3.2, z * 6.5, 63) * smoothstep(0.1, 0.5, near)
    ripple *= 0.45 + 0.75 * calm
    water = 0.0
    for k in (-1.0, -0.6, -0.25, 0.1, 0.45, 0.8, 1.15):
        reach = (0.004 + 0.055 * near) * (ripple + 0.55 * k)
        water = water + sample(mirror, column + 0.2 * reach * unit, row - reach * unit)
    water = water / 7
    water = mix(water * 0.90, rgb("#22455c"), 0.10 + 0.34 * near**1.3)
    water += (0.045 * np.clip(ripple, -1, 1.5) * near)[..., None] * rgb("#ffe0c0")
    offset = np.abs(column / unit - LAKE_SUN[0]) / (0.022 + 0.085 * near)
    sparkle = smoothstep(0.15, 0.9, ripple + 0.75 * np.exp(-(offset**2)))
    glitter = sparkle * np.exp(-(offset**2)) * smoothstep(0.0, 0.05, near) * (1.0 - 0.6 * near)
    return 1 - (1 - np.clip(water, 0, 1)) * (1 - glitter[..., None] * rgb("#ffd694") * 0.9)


def lake_foreground(draw: ImageDraw.ImageDraw, camera: Camera) -> None:
    """Draw what stands closest: two pines on the right and grass that catches the last light."""
    rng = np.random.default_rng(12)
    unit = camera.height
    for base_x, base_y, tall in ((1.475, 0.90, 0.50), (1.375, 0.925, 0.80)):
        draw_pine(draw, (base_x * unit, base_y * unit), tall * unit, rng)
    size = unit / 600
    depth = np.sort(rng.uniform(0, 1, 5200) ** 1.3)
    for t in depth:
        z = 15.5 * (1 - t) + 8.2 * t
        x = rng.uniform(-1, 1) * z * 0.52
        reach = 11.2 + 3.4 * float(smoothstep(-1.5, 5.5, np.float32(x))) + 0.5 * np.sin(x * 1.7)
        if z > reach:
            continue
        start = camera.project(x, 0.55 * np.tanh((reach - z) / 1.6), z)
        tall = unit * rng.uniform(0.25, 1) * (0.035 + 0.055 * t) * (0.5 + 0.5 * np.sin(x * 2.1 + z) ** 2)
        lean = rng.normal(0.12, 0.32)
        root = mix(rgb("#1b2415"), rgb("#57562a"), rng.uniform(0, 1))
        top = mix(root, rgb("#e9b45c"), rng.uniform(0.1, 0.85) ** 1.5)
        tip = draw_blade(draw, start, tall, lean, root, top)
        if rng.uniform() < 0.05 + 0.10 * (np.sin(x * 1.3 + 2) > 0.3):
            petals = mix(rgb("#8c5bb0"), rgb("#d9a7d8"), rng.uniform(0, 1))
            for _ in range(7):
                px, py = tip[0] + size * rng.normal(0, 0.7), tip[1] + size * rng.uniform(-1, 5.5)
                box = [px - size, py - size, px + size, py + size]
                draw.ellipse(box, fill=ink(petals * rng.uniform(0.7, 1.15)))


def draw_blade(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], tall: float, lean: float, root: Array, tip: Array
) -> tuple[float, float]:
    """Draw a bent blade of grass that gets thinner and lighter towards its tip, and say where that is."""
    x, y = start
    steps = 5
    for k in range(steps):
        t0, t1 = k / steps, (k + 1) / steps
        line = [x + lean * tall * t0 * t0, y - tall * t0, x + lean * tall * t1 * t1, y - tall * t1]
        draw.line(line, fill=ink(mix(root, tip, t1)), width=max(1, round(0.06 * tall * (1.1 - t1))))
    return x + lean * tall, y - tall


def draw_pine(
    draw: ImageDraw.ImageDraw, base: tuple[float, float], tall: float, rng: np.random.Generator
) -> None:
    """Draw a dark conifer branch by branch; needles on the left glow in the low sun."""
    x, y = base
    trunk = [(x - 0.012 * tall, y), (x + 0.012 * tall, y), (x + 1, y - tall), (x - 1, y - tall)]
    draw.polygon(trunk, fill=ink(rgb("#1d1812")))
    dark, light, glow = rgb("#0c1512"), rgb("#22301d"), rgb("#b98a45")
    for t in np.linspace(0.0, 0.94, 96) ** 0.9:
        for side in (-1, 1):
            length = tall * (0.012 + 0.20 * t**0.85) * rng.uniform(0.55, 1.12)
            droop = rng.uniform(0.10, 0.42) + 0.12 * t
            origin = y - tall * (1 - t) + rng.normal(0, 0.004 * tall)
            steps = int(8 + length / 3)
            for u in np.linspace(0.03, 1, steps):
                px = x + side * length * u
                py = origin + length * (droop * u + 0.10 * np.sin(3.1 * u) - 0.22 * u * u)
                needle = tall * 0.030 * (1.1 - 0.75 * u) * rng.uniform(0.5, 1.25)
                shine = (0.5 - 0.5 * side) * u * rng.uniform(0, 1) ** 2
                colour = mix(mix(dark, light, rng.uniform(0, 1)), glow, 0.75 * shine)
                tip = (px + side * needle * rng.uniform(0.1, 0.9), py + needle * rng.uniform(0.25, 0.9))
                draw.line([(px, py), tip], fill=ink(colour), width=max(1, round(tall / 400)))


def paint_lake(width: int, height: int) -> Array:
    """A mountain lake at golden hour."""
    camera = Camera(width, height, 0.545 * height, 1.55 * height, 3.0)
    depths = np.geomspace(5, 620, 1500)
    kept: dict[str, Array] = {}

    def height_at(x: Array, z: Array) -> Array:
        far = int(np.searchsorted(depths, 30))
        ground = np.concatenate([lake_bank(x[:far], z[:far]), lake_height(x[far:], z[far:])])
        kept["trees"], kept["kind"] = lake_trees(x, z, ground)
        return ground + kept["trees"]

    terrain = sample_terrain(camera, depths, height_at, sun_slope=0.36)
    trees, kind = kept["trees"][:, -width:], kept["kind"][:, -width:]
    sky = lake_sky(camera, LAKE_SUN)
    view = view_terrain(camera, terrain)
    picture = sky.copy()
    picture[view.hit] = lake_land(camera, view, terrain, trees, kind)
    reflected = view_terrain(camera, terrain, mirrored_beyond=30)
    mirror = sky.copy()
    mirror[reflected.hit] = lake_land(camera, reflected, terrain, trees, kind)
    flip = np.clip(2 * camera.horizon - np.arange(height), 0, height - 1).astype(int)
    wet = view.hit.copy()
    wet[view.hit] = view.pick(terrain.height, view.hit) <= 0.02
    x, z = view.pick(terrain.x, wet), view.pick(terrain.z, wet)
    picture[wet] = lake_water(camera, mirror[flip], wet, x, z)
    x, y = pixel_grid(width, height)
    glow = np.exp(-np.hypot(x - LAKE_SUN[0], (y - LAKE_SUN[1]) * 1.1) / 0.16) * 0.42
    picture = 1 - (1 - np.clip(picture, 0, 1)) * (1 - glow[..., None] * rgb("#ffb25e"))
    foreground = Image.new("RGBA", (width, height))
    lake_foreground(ImageDraw.Draw(foreground), camera)
    return paste(picture, foreground)


# ---------------------------------------------------------------------------------------------------------
# Lighthouse
# ---------------------------------------------------------------------------------------------------------

TOWER_X, TOWER_Z, TOWER_BASE, TOWER_TALL = 9.5, 75.0, 10.2, 20.0


def headland_height(x: Array, z: Array) -> Array:
    """A grassy headland with cliffs on the right, and skerries in front of it."""
    wx, wz = warp(x, z, 3.2, 11, seed=103)
    coast = (
        -3 + 9 * smoothstep(66, 50, wz) + 14 * smoothstep(84, 120, wz) + 2.2 * fractal(wz / 9, wx / 9, 4, 105)
    )
    coves = 4.5 * fractal(wx / 13, wz / 30, 3, seed=106)
    inland = np.minimum(wx - coast, (wz - 53 - 0.10 * wx - coves) * 1.3)
    inland = np.minimum(inland, 128 + 0.2 * wx + coves - wz)
    strata = ridged(wx / 9 + 0.3 * wz / 9, wz / 9, 7, seed=107) - 0.45
    cliff = 9.0 * smoothstep(0.0, 6.5, inland + 4.2 * strata)
    meadow = 0.10 * np.clip(inland - 5, 0, 14) + 0.45 * fractal(x / 6, z / 6, 4, seed=109)
    yard = np.exp(-(((x - 13) / 9) ** 2) - ((z - 74) / 7) ** 2)
    ground = cliff + meadow * smoothstep(3, 9, inland) - 2.2 * smoothstep(1, -9, inland)
    ground += (TOWER_BASE - ground) * yard * smoothstep(2, 8, inland)
    skerries = 3.4 * ridged(wx / 7 + 3.1, wz / 7, 6, seed=111) - 2.35
    near = smoothstep(-13, -2, inland) * smoothstep(10, -2, inland)
    cape = (
        95 * ridged(x / 420 + 0.35, z / 700, 7, seed=115) * smoothstep(-430, -900, x - 0.12 * (z - 1500)) - 6
    )
    return np.maximum(ground, skerries * near - 2 * (1 - near)) + np.maximum(cape + 2, 0) * smoothstep(
        1300, 1500, z
    )


def puff_relief(width: int, height: int, rng: np.random.Generator) -> Array:
    """Relief of heaped clouds, the upper hull of many balls, in units of the picture's height."""
    relief = np.zeros((height, width), np.float32)
    for cx, base, half, tall, count in (
        (0.27, 0.405, 0.34, 0.27, 230),
        (1.30, 0.425, 0.42, 0.36, 300),
        (0.80, 0.440, 0.22, 0.09, 110),
        (0.62, 0.150, 0.10, 0.025, 40),
    ):
        thick = 0.13 * tall
        across = rng.uniform(-1, 1, count)
        ceiling = tall * (1 - across**2) * (0.72 + 0.28 * np.sin(5.3 * across + 40 * cx))
        lift = ceiling * rng.uniform(0, 1, count) ** 0.8
        radius = (0.30 * tall * rng.uniform(0.2, 1, count) ** 2.0 + 0.007) * (1.15 - 0.55 * np.abs(across))
        for dx, dy, r in zip(across * half, lift, radius, strict=True):
            column, row, reach = (cx + dx) * height, (base - r / 3 - dy) * height, r * height
            top, bottom = max(int(row - reach), 0), min(int(row + reach) + 2, height)
            left, right = max(int(column - reach), 0), min(int(column + reach) + 2, width)
            if top >= bottom or left >= right:
                continue
            u = (np.arange(left, right) - column)[None, :] / height
            v = (np.arange(top, bottom) - row)[:, None] / height
            ball = np.sqrt(np.maximum(r * r - u * u - (v * np.where(v > 0, 3.0, 1.0)) ** 2, 0))
            patch = relief[top:bottom, left:right]
            np.maximum(patch, np.where(ball > 0, ball + thick, 0), out=patch)
    return relief


def cumulus_sky(camera: Camera) -> Array:
    """Blue sky full of towering clouds lit from the left."""
    width, height = camera.width, camera.height
    x, y = pixel_grid(width, height)
    up = camera.horizon / height - y
    sky = ramp(up, "0 #f7d9b0, 0.06 #d9d3c4, 0.16 #9cc3d3, 0.34 #4f97c4, 0.55 #2467a3")
    wx, wy = warp(x, y, 0.014, 0.07, seed=123)
    wx, wy = warp(wx, wy, 0.009, 0.020, seed=124)
    wisps = smoothstep(0.0, 0.9, fractal(wx / 0.5 + wy, wy / 0.10, 6, seed=135)) * smoothstep(0.2, 0.45, up)
    sky = mix(sky, rgb("#f4efe6"), 0.55 * wisps)
    hull = sample(puff_relief(width, height, np.random.default_rng(64)), wx * height, wy * height)
    detail = fractal(wx / 0.045, wy / 0.045, 5, seed=131, gain=0.6)
    cover = smoothstep(0.10, 0.75, blur(hull > 0, 0.004 * height) + 0.22 * detail)
    facing = np.zeros_like(x)
    for radius, roughness, weight in ((0.0035, 0.0005, 0.3), (0.009, 0.0014, 0.35), (0.028, 0.0, 0.35)):
        relief = blur(hull, radius * height) + roughness * detail
        slope_y, slope_x = np.gradient(relief * height * (1 + 25 * radius))
        facing += weight * (0.76 * slope_x + 0.50 * slope_y + 0.40) / np.sqrt(1 + slope_x**2 + slope_y**2)
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    soft, occlusion = blur(hull, 0.012 * height), np.zeros_like(x)
    for k in (1, 2, 3, 4, 5, 6):
        reach = 0.016 * k**1.3
        higher = sample(soft, column - 0.86 * reach * height, row - 0.50 * reach * height) - relief
        occlusion += smoothstep(0.0, 0.05, higher - 0.35 * reach) / 6
    crevice = np.clip((blur(hull, 0.02 * height) - relief) / 0.02, -0.6, 1)
    light = 0.33 + 0.95 * facing - 0.42 * occlusion - 0.13 * crevice - 0.22 * smoothstep(0.22, 0.08, up)
    clouds = ramp(light, "0 #5a6e94, 0.25 #8793b4, 0.5 #c9b9bd, 0.72 #f6e0c6, 1 #fffaf0")
    clouds = mix(clouds, rgb("#e3cdb8"), 0.55 * smoothstep(0.14, 0.02, up))
    return mix(sky, clouds, cover)


def sea(x: Array, z: Array, depth: Array) -> Array:
    """Swell with small waves, whitecaps, and surf where the water is shallow."""

    def surface(px: Array, pz: Array) -> Array:
        wx, wz = warp(px, pz, 2.5, 14, seed=141)
        swell = 0.8 * ridged(wx / 26, wz / 9, 3, seed=143) + 0.30 * ridged(
            wx / 7.5 + 0.2 * wz, wz / 3.2, 3, seed=147
        )
        return swell + 0.06 * fractal(px / 1.3, pz / 0.8, 3, seed=149)

    height = surface(x, z)
    step = 0.12 + z / 900
    slope_x, slope_z = (surface(x + step, z) - height) / step, (surface(x, z + step) - height) / step
    fade = 1 / (1 + z / 260)
    facing = np.clip(0.5 + 1.25 * fade * slope_z - 0.5 * fade * slope_x, 0, 1)
    deep = mix(rgb("#0c3350"), rgb("#1d6f86"), smoothstep(0.35, 1.0, height))
    shallow = mix(deep, rgb("#4fb3a8"), smoothstep(2.2, 0.2, depth) * 0.75)
    fresnel = 0.16 + 0.62 * smoothstep(60, 900, z)
    water = mix(
        shallow, mix(rgb("#5c87a6"), rgb("#f3dcc0"), smoothstep(0.45, 0.95, facing)), fresnel * (0.3 + facing)
    )
    wx, wz = warp(x, z, 1.6, 3.0, seed=151)
    lace = 1 - smoothstep(0.02, 0.32, np.abs(fractal(wx / 1.7, wz / 1.2, 4, seed=153)))
    crest = smoothstep(0.78, 1.02, height + 0.16 * fractal(x / 3, z / 2, 3, seed=155)) * smoothstep(
        500, 90, z
    )
    surf = smoothstep(1.75, 0.15, depth + 0.5 * fractal(x / 3, z / 3, 3, seed=157))
    foam = np.clip(surf * (0.35 + 0.75 * lace) + crest * (0.25 + 0.65 * lace), 0, 1)
    water = mix(water, mix(rgb("#a9bfca"), rgb("#fff3e2"), facing), foam)
    return mix(water, rgb("#cfd0c8"), 0.55 * smoothstep(120, 1100, z))


def headland_land(view: View, terrain: Terrain, land: Array) -> Array:
    """Colours of the pixels in the mask `land`: cliffs, rocks and meadow in warm light from the left."""
    x, z, height = (view.pick(grid, land) for grid in (terrain.x, terrain.z, terrain.height))
    slope_x, slope_z = view.pick(terrain.slope_x, land), view.pick(terrain.slope_z, land)
    sunlit = view.pick(terrain.sunlit, land)
    steep = np.hypot(slope_x, slope_z)
    grain = fractal(x * 0.7, height * 1.6 + z * 0.7, 5, seed=161)
    cracks = billow(x * 0.5 + 0.1 * height, height * 0.35 + z * 0.2, 5, seed=163)
    rock = ramp(0.5 + 0.5 * grain + 0.5 * (cracks - 0.5), "0 #3c3533, 0.45 #7d6c5f, 1 #b9a48c")
    rock = mix(rock, rgb("#2a2b2c"), smoothstep(1.3, 0.2, height) * 0.8)
    tufts = fractal(x * 0.6, z * 0.35, 5, seed=165, gain=0.62)
    grass = ramp(0.5 + 0.55 * tufts, "0 #34482a, 0.4 #66753a, 0.75 #a39a50, 1 #cdb56a")
    ground = mix(
        rock, grass, smoothstep(1.15, 0.65, steep + 0.3 * grain) * smoothstep(4.5, 7.0, height + grain)
    )
    path = np.abs(z - 70.5 - 1.3 * np.sin(x / 3.2)) / 0.75
    ground = mix(
        ground, rgb("#c9b189"), smoothstep(1.2, 0.6, path) * smoothstep(8, 10, x) * smoothstep(9, 9.7, height)
    )
    direct = np.clip(lambert(slope_x, slope_z, (-0.80, 0.50, -0.42)), 0, 1) * (0.15 + 0.85 * sunlit)
    house = z - 0.52 * (x - 24)
    shaded = smoothstep(2.3, 1.7, np.abs(z - TOWER_Z - 0.52 * (x - TOWER_X))) * smoothstep(0, 1, x - TOWER_X)
    shaded = np.maximum(shaded, smoothstep(3.2, 2.6, np.abs(house - 74)) * (x > 23) * smoothstep(33, 32, x))
    direct *= 1 - 0.8 * shaded * smoothstep(8, 9, height)
    lit = ground * (direct[..., None] * rgb("#ffd9a0") * 1.45 + rgb("#6f86a8") * 0.52)
    return mix(lit, rgb("#b9c6cf"), 0.12 * smoothstep(90, 140, z) + 0.62 * smoothstep(400, 2600, z))


def tower(canvas: Array, camera: Camera) -> Array:
    """Raise the lighthouse: a shaded, banded cylinder with gallery, lantern and dome."""
    cx, base = camera.project(TOWER_X, TOWER_BASE - 0.3, TOWER_Z)
    scale = camera.focal / TOWER_Z
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    right, up = ((x - cx) / scale).astype(np.float32), ((base - y) / scale).astype(np.float32)
    pixel = 1 / scale

    def drum(picture: Array, low: float, high: float, r_low: float, r_high: float, paint: Callable) -> Array:
        radius = r_low + (r_high - r_low) * np.clip((up - low) / (high - low), 0, 1)
        across = right / radius
        bulge = np.sqrt(np.clip(1 - across**2, 0, 1))
        level = up - (up - (camera.eye - TOWER_BASE)) * 0.035 * bulge
        inside = smoothstep(pixel, -pixel, np.abs(right) - radius)
        inside *= smoothstep(low - pixel, low + pixel, level)
        inside *= smoothstep(high + pixel, high - pixel, level)
        shade = np.clip(-0.72 * across + 0.69 * bulge, 0, 1)
        light = shade[..., None] * rgb("#ffe0b0") * 1.05 + rgb("#7488ad") * 0.50
        light += 0.14 * smoothstep(0.55, 1.0, across)[..., None] * rgb("#9fc4d8")
        return mix(picture, paint(across, level) * light, inside)

    def plaster(across: Array, level: Array) -> Array:
        stain = fractal(across * 3, level * 0.35, 4, seed=171)
        red = sum(smoothstep(1.79, 1.71, np.abs(level - middle)) for middle in (5.6, 12.6))
        colour = mix(rgb("#f6f0e4"), rgb("#c23a2b"), red)
        return colour * (1 - 0.12 * np.clip(stain + 0.25, 0, 1))[..., None]

    def flat(code: str) -> Callable[[Array, Array], Array]:
        return lambda across, level: np.broadcast_to(rgb(code), (*across.shape, 3))

    top = TOWER_TALL - 4.2
    canvas = drum(canvas, -0.4, 0.7, 3.0, 2.9, flat("#8f877c"))
    canvas = drum(canvas, 0.6, top, 2.55, 1.75, plaster)
    for level, side in ((3.0, -0.25), (8.9, 0.15), (14.5, -0.2)):
        window = np.maximum(np.abs(right - side) - 0.30, np.abs(up - level) - 0.55)
        canvas = mix(canvas, rgb("#e9e0cf") * 0.75, smoothstep(pixel, -pixel, window - 0.14))
        canvas = mix(canvas, rgb("#26323d"), smoothstep(pixel, -pixel, window))
    canvas = drum(canvas, top - 0.5, top, 1.75, 2.45, flat("#d8cfbf"))
    canvas = drum(canvas, top, top + 0.28, 2.55, 2.55, flat("#3b3a40"))
    canvas = drum(canvas, top + 0.28, top + 2.5, 1.25, 1.25, flat("#ffd277"))
    panes = smoothstep(0.07, 0.03, np.abs(np.mod(right + 0.31, 0.62) - 0.31))
    panes += np.abs(up - top - 1.4) < 0.05
    glass = (np.abs(right) < 1.25) & (up > top + 0.28) & (up < top + 2.5)
    canvas = mix(canvas, rgb("#33323a"), np.clip(panes, 0, 1) * glass)
    canvas = drum(canvas, top + 2.5, top + 2.75, 1.6, 1.5, flat("#35343b"))
    canvas = drum(canvas, top + 2.75, top + 3.3, 1.4, 1.05, flat("#b5352a"))
    canvas = drum(canvas, top + 3.3, top + 3.75, 1.05, 0.35, flat("#b5352a"))
    canvas = drum(canvas, top + 3.75, top + 4.9, 0.10, 0.06, flat("#33323a"))
    rail = (np.abs(up - top - 1.15) < 0.055) | (np.abs(up - top - 0.75) < 0.035)
    posts = (np.abs(np.mod(right + 0.2, 0.4) - 0.2) < 0.045) & (up > top) & (up < top + 1.15)
    canvas = mix(canvas, rgb("#2e2d33"), ((rail | posts) & (np.abs(right) < 2.5)).astype(np.float32))
    lamp = np.hypot(right, up - top - 1.4)
    glow = 0.75 * np.exp(-lamp / 1.1) + 0.20 * np.exp(-lamp / 4.5)
    return 1 - (1 - np.clip(canvas, 0, 1)) * (1 - glow[..., None] * rgb("#ffdb8a"))


def cottage(camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Draw the keeper's cottage with lit windows, tiled roof, chimney and a picket fence."""
    layer = Image.new("RGBA", (camera.width, camera.height))
    draw = ImageDraw.Draw(layer)

    def face(points: list[tuple[float, float, float]], colour: Array) -> None:
        corners = [camera.project(x, TOWER_BASE - 0.2 + up, z) for x, up, z in points]
        draw.polygon(corners, fill=ink(colour))

    def panel(x0: float, x1: float, low: float, high: float, z: float, colour: Array) -> None:
        face([(x0, low, z), (x1, low, z), (x1, high, z), (x0, high, z)], colour)

    def roof_strip(x0: float, x1: float, t0: float, t1: float, colour: Array) -> None:
        (up0, z0), (up1, z1) = ((2.85 + 3.35 * t, front - 0.4 + 3.4 * t) for t in (t0, t1))
        face([(x0, up0, z0), (x1, up0, z0), (x1, up1, z1), (x0, up1, z1)], colour)

    left, right, front, middle, back, eaves, ridge = 15.2, 24.0, 71.0, 74.0, 77.0, 3.1, 6.2
    gable = [
        (left, 0, front),
        (left, 0, back),
        (left, eaves, back),
        (left, ridge, middle),
        (left, eaves, front),
    ]
    face(gable, rgb("#ffedd0"))
    for x in np.arange(left, right, 0.2):
        panel(x, x + 0.2, 0, eaves, front, rgb("#d2c7bc") * rng.uniform(0.97, 1.02))
    panel(left, right, 2.45, eaves, front, rgb("#8f8a94"))
    rows, tiles = 13, 26
    for k in range(rows):
        edges = (
            left - 0.35 + 9.5 * np.clip(np.arange(tiles + 1) - 0.5 * (k % 2), 0, tiles - 0.5) / (tiles - 0.5)
        )
        for x0, x1 in itertools.pairwise(edges):
            tile = mix(rgb("#5a4a52"), rgb("#9a6a58"), rng.uniform(0, 1)) * (0.82 + 0.25 * k / rows)
            roof_strip(x0, x1, k / rows, (k + 1) / rows, tile)
    panel(21.4, 22.6, 5.4, 7.6, middle, rgb("#a4574a"))
    panel(21.2, 21.5, 5.6, 7.6, middle, rgb("#d98a6a"))
    panel(21.1, 22.8, 7.6, 7.9, middle, rgb("#6b4a48"))
    for x in (16.6, 21.6):
        panel(x - 0.75, x + 0.75, 0.80, 2.30, front, rgb("#f4ead8"))
        for x0 in (x - 0.62, x + 0.06):
            for low in (0.93, 1.60):
                panel(
                    x0,
                    x0 + 0.56,
                    low,
                    low + 0.57,
                    front,
                    mix(rgb("#ffbe55"), rgb("#ffe09a"), rng.uniform(0, 1)),
                )
    panel(18.5, 19.7, 0, 2.3, front, rgb("#2f6273"))
    for x in np.arange(12.0, 29.0, 0.42):
        panel(x, x + 0.16, -0.4, 0.95 + rng.uniform(-0.05, 0.05), 68.4, rgb("#efe2cc"))
    for low in (0.25, 0.65):
        panel(12.0, 29.0, low, low + 0.1, 68.4, rgb("#d8c9b2"))
    return layer


def boat_and_gulls(camera: Camera) -> Image.Image:
    """Draw a sailing boat in the bay and a few gulls."""
    layer = Image.new("RGBA", (camera.width, camera.height))
    draw = ImageDraw.Draw(layer)
    cx, cy = camera.project(-62, 0, 165)
    unit = camera.focal / 165

    def shape(points: list[tuple[float, float]], colour: str, alpha: float = 1.0) -> None:
        draw.polygon([(cx + unit * px, cy - unit * py) for px, py in points], fill=ink(rgb(colour), alpha))

    shape([(-3.2, -0.3), (3.6, -0.3), (2.2, -3.4), (0.6, -5.5), (-1.6, -3.0)], "#f3e3c6", 0.30)
    shape([(-4.4, 1.5), (5.2, 1.7), (3.6, -0.1), (-3.4, -0.1)], "#7a3325")
    shape([(-4.4, 1.5), (5.2, 1.7), (5.0, 1.35), (-4.2, 1.1)], "#f0dcb8")
    shape([(0.35, 1.6), (0.6, 1.6), (0.55, 14.4), (0.4, 14.4)], "#4a382c")
    shape([(0.2, 2.3), (-0.5, 8.0), (0.35, 13.8), (-3.2, 7.4), (-5.0, 2.6)], "#fff4dc")
    shape([(0.2, 2.3), (-0.5, 8.0), (0.35, 13.8), (-0.9, 8.0), (-1.6, 2.3)], "#d9c3a2")
    shape([(0.75, 2.2), (0.75, 12.2), (3.4, 5.6), (4.9, 2.2)], "#e0653a")
    shape([(0.75, 2.2), (0.75, 12.2), (1.6, 6.0), (2.0, 2.2)], "#f08a4e")
    wing = [(0, 0), (0.38, -0.30), (0.66, -0.26), (1.0, -0.02), (0.64, -0.12), (0.36, -0.12), (0, 0.14)]
    gulls = [(0.62, 0.20, 0.030), (0.70, 0.265, 0.020), (0.545, 0.285, 0.016), (0.20, 0.44, 0.014)]
    for x, y, span in np.array(gulls) * camera.height:
        for side, colour in ((-1, "#fffaf0"), (1, "#8593a8")):
            draw.polygon([(x + side * span * px, y + span * py) for px, py in wing], fill=ink(rgb(colour)))
    return layer


def paint_lighthouse(width: int, height: int) -> Array:
    """A lighthouse and its cottage on a headland, under cumulus clouds."""
    camera = Camera(width, height, 0.50 * height, 1.5 * height, 16.0)
    depths = np.concatenate([np.linspace(40, 120, 900), np.geomspace(120.5, 4000, 450)])
    terrain = sample_terrain(camera, depths, headland_height, sun_slope=0.45)
    view = view_terrain(camera, terrain)
    picture = cumulus_sky(camera)
    land = view.hit.copy()
    land[view.hit] = view.pick(terrain.height, view.hit) > 0
    wet = view.hit & ~land
    x, z, ground = (view.pick(grid, wet) for grid in (terrain.x, terrain.z, terrain.height))
    picture[wet] = sea(x, z, np.maximum(-ground, 0))
    picture[land] = headland_land(view, terrain, land)
    picture = tower(picture, camera)
    picture = paste(picture, cottage(camera, np.random.default_rng(5)))
    return paste(picture, boat_and_gulls(camera))


# ---------------------------------------------------------------------------------------------------------
# Swirls
# ---------------------------------------------------------------------------------------------------------

# Centre and radius of each star's halo; centre, radius and sense of rotation of each eddy.
STARS = (
    (0.83, 0.545, 0.175),
    (0.155, 0.165, 0.085),
    (0.49, 0.095, 0.058),
    (0.80, 0.120, 0.050),
    (1.135, 0.165, 0.098),
    (0.185, 0.500, 0.056),
    (1.195, 0.465, 0.048),
)
EDDIES = (
    (0.455, 0.365, 0.150, 1.0),
    (0.955, 0.270, 0.085, -1.0),
    (0.255, 0.320, 0.070, -1.0),
    (0.66, 0.225, 0.07, 1.0),
)


def swirl_land(x: Array) -> Array:
    """Height of the rolling hills' skyline."""
    return 0.735 + 0.055 * np.sin(3.6 * x + 0.6) + 0.03 * np.sin(8.3 * x + 2.0)


def swirl_stream(x: Array, y: Array) -> Array:
    """Stream function: the paint flows along its level lines."""
    stream = y + 0.075 * np.sin(5.2 * x + 3.0 * y) + 0.05 * fractal(x / 0.30, y / 0.30, 2, seed=203)
    for cx, cy, radius, strength in EDDIES:
        stream = stream + strength * 2.3 * radius * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
    for cx, cy, radius in STARS:
        r = np.hypot(x - cx, y - cy)
        halo = smoothstep(1.6 * radius, 1.0 * radius, r)
        stream = stream * (1 - halo) + (cy + 1.3 * (1.3 * radius - r)) * halo
    below = smoothstep(-0.015, 0.03, y - swirl_land(x))
    hills = (
        (y - swirl_land(x)) * 0.9
        + 0.045 * np.sin(7 * x - 9 * y)
        + 0.016 * fractal(x / 0.16, y / 0.16, 2, 207)
    )
    return stream * (1 - below) + hills * below


def swirl_colour(x: Array, y: Array, stream: Array) -> Array:
    """The colours to aim for: bands along the flow, haloed stars, dark hills."""
    wobble = fractal(x / 0.2, y / 0.2, 3, seed=211)
    arms = np.zeros_like(x)
    for cx, cy, radius, strength in EDDIES:
        near = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (1.3 * radius) ** 2)
        arms += 2 * strength * np.arctan2(y - cy, x - cx) * smoothstep(0.05, 0.4, near)
    band = 0.5 + 0.5 * np.sin(stream * 46 + 1.6 * wobble + arms)
    blues = ramp(band, "0 #0d1c4d, 0.3 #1b3f8c, 0.55 #2c6db0, 0.75 #3fa3b5, 0.9 #9fd0bf, 1 #efe6c2")
    colour = mix(blues, rgb("#122460"), 0.45 * smoothstep(0.25, -0.5, wobble))
    for cx, cy, radius in STARS:
        r = np.hypot(x - cx, y - cy) / radius * (1 + 0.10 * wobble)
        halo = ramp(
            r,
            "0 #fff2b8, 0.22 #ffd34f, 0.36 #f08a24, 0.5 #fbc640, 0.7 #f3e7a8, 0.85 #e7a63a, "
            "1 #dfe3b4, 1.15 #6fb9b4, 1.35 #2f6aa8",
        )
        colour = mix(colour, halo, smoothstep(1.45, 1.1, r))
    depth = y - swirl_land(x)
    fields = fractal(x / 0.32 + 2.5 * depth, depth / 0.09, 3, seed=213)
    furrows = 0.5 + 0.5 * np.sin(stream * 130 + 1.2 * wobble)
    hills = ramp(
        0.5 + 0.62 * fields + 0.46 * (furrows - 0.5),
        "0 #101f4a, 0.2 #154a66, 0.38 #2f8078, 0.52 #7f9a4c, 0.66 #d8962e, 0.82 #f5c64f, 1 #f6e9b4",
    )
    hills = mix(hills, rgb("#0a1738"), smoothstep(0.02, 0.0, depth))
    return mix(colour, hills, smoothstep(-0.006, 0.006, depth))


def bristle_texture(rng: np.random.Generator) -> Array:
    """Streaks a brush leaves: rows run across the stroke, columns along it; values about -1..1."""
    along, across = np.meshgrid(np.arange(512), np.arange(256))
    streaks = fractal(across / 2.7, along / 90, 2, seed=221)
    streaks += 0.5 * fractal(across / 7.0, along / 60, 2, seed=225)
    return (streaks + 0.15 * rng.normal(size=streaks.shape)).astype(np.float32)


@dataclass
class Painting:
    """Wet paint: colours, thickness, and the texture a brush leaves in it."""

    colour: Array
    relief: Array
    bristles: Array


@dataclass(frozen=True)
class Stroke:
    """One bent brush stroke; lengths in pixels, `bend` is its curvature, `grain` a place in the texture."""

    x: float
    y: float
    angle: float
    bend: float
    half_length: float
    half_width: float
    colours: Array
    grain: Array


def brush(painting: Painting, stroke: Stroke) -> None:
    """Lay a stroke of two colours on the painting, in place."""
    height, width = painting.relief.shape
    reach = int(stroke.half_length + stroke.half_width + 2)
    left, top = max(int(stroke.x) - reach, 0), max(int(stroke.y) - reach, 0)
    right, bottom = min(int(stroke.x) + reach, width), min(int(stroke.y) + reach, height)
    dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(stroke.x)
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(stroke.y)
    cosine, sine = np.float32(np.cos(stroke.angle)), np.float32(np.sin(stroke.angle))
    along = dx * cosine + dy * sine
    across = dy * cosine - dx * sine - np.float32(0.5 * stroke.bend) * along * along
    rows = (across * 3.2 + stroke.grain[0]).astype(np.int32) & 255
    columns = (along + stroke.grain[1]).astype(np.int32) & 511
    bristle = painting.bristles[rows, columns]
    u, v = along / np.float32(stroke.half_length), across / np.float32(stroke.half_width)
    body = 1.25 - v * v - u * u * u * u + 0.42 * bristle * (0.4 + 0.6 * np.abs(u))
    cover = np.clip(body * 3.2 - 0.9, 0, 1)
    blend = np.clip(0.5 + 0.5 * v + 0.45 * bristle, 0, 1)
    paint = mix(stroke.colours[0], stroke.colours[1], blend) * (1 + 0.13 * bristle[..., None])
    patch = painting.colour[top:bottom, left:right]
    patch += (paint - patch) * cover[..., None]
    thickness = 0.55 + 0.40 * bristle + 0.55 * np.abs(v * v * v) + 0.25 * u
    ridge = painting.relief[top:bottom, left:right]
    ridge += (thickness - 0.75 * ridge) * cover


@dataclass(frozen=True)
class Coat:
    """One layer of strokes: sizes in units of the picture's height, `jitter` varies the colours."""

    spacing: float
    half_length: float
    half_width: float
    jitter: float


def lay_coat(painting: Painting, coat: Coat, target: Array, angle: Array, rng: np.random.Generator) -> None:
    """Cover the painting with strokes that follow `angle` and take their colours from `target`."""
    height, width = angle.shape
    step = 0.5 * coat.half_length * height
    grid = np.meshgrid(np.arange(0, width / height, coat.spacing), np.arange(0, 1, coat.spacing))
    px, py = ((axis.ravel() + rng.uniform(0, coat.spacing, axis.size)) * height for axis in grid)
    px, py = np.minimum(px, width - 1), np.minimum(py, height - 1)
    heading = angle[py.astype(int), px.astype(int)]
    ahead_x = np.clip(px + step * np.cos(heading), 0, width - 1).astype(int)
    ahead_y = np.clip(py + step * np.sin(heading), 0, height - 1).astype(int)
    turn = (angle[ahead_y, ahead_x] - heading + np.pi) % (2 * np.pi) - np.pi
    bend = np.clip(turn / step, -0.45 / step, 0.45 / step)
    for k in rng.permutation(px.size):
        size = height * rng.uniform(0.65, 1.25)
        aim = target[int(py[k]), int(px[k])]
        first = np.clip(aim + rng.normal(0, coat.jitter) + rng.normal(0, 0.6 * coat.jitter, 3), 0, 1)
        second = np.clip(first + rng.normal(0, coat.jitter, 3), 0, 1)
        stroke = Stroke(
            x=px[k],
            y=py[k],
            angle=heading[k] + rng.normal(0, 0.10),
            bend=bend[k],
            half_length=coat.half_length * size,
            half_width=coat.half_width * size,
            colours=np.stack([first, second]).astype(np.float32),
            grain=rng.integers(0, 512, 2),
        )
        brush(painting, stroke)


def paint_swirls(width: int, height: int) -> Array:
    """Thousands of thick brush strokes streaming around eddies and haloed stars."""
    rng = np.random.default_rng(31)
    x, y = pixel_grid(width, height)
    stream = swirl_stream(x, y)
    target = swirl_colour(x, y, stream)
    slope_y, slope_x = np.gradient(stream)
    angle = np.arctan2(-slope_x, slope_y)
    painting = Painting(target * 0.55, np.zeros_like(x), bristle_texture(rng))
    for coat in (
        Coat(0.0170, 0.042, 0.0105, 0.050),
        Coat(0.0125, 0.033, 0.0068, 0.060),
        Coat(0.0105, 0.024, 0.0046, 0.075),
    ):
        lay_coat(painting, coat, target, angle, rng)
    light = emboss(painting.relief, height / 1400)
    shine = np.clip(light - 0.35, 0, 1) ** 1.5
    return np.clip(painting.colour * (1 + 0.30 * light[..., None]) + 0.22 * shine[..., None], 0, 1)


# ---------------------------------------------------------------------------------------------------------
# Mosaic
# ---------------------------------------------------------------------------------------------------------


@dataclass
class Design:
    """What the mosaic shows: per pixel a region, a colour and the direction of the tile rows."""

    region: Array
    colour: Array
    angle: Array

    def lay(self, inside: Array, field: Array, colour: Array, bands: Array | None = None) -> None:
        """Fill `inside`: tiles follow level lines of `field`; each band is a region of its own."""
        slope_y, slope_x = np.gradient(field)
        fresh = int(self.region.max()) + 1
        label = fresh + (np.zeros(field.shape, int) if bands is None else bands - int(bands.min()))
        self.region = np.where(inside, label, self.region)
        self.colour = np.where(inside[..., None], colour, self.colour)
        self.angle = np.where(inside, np.arctan2(slope_y, slope_x), self.angle)


def pick_colours(index: Array, palette: str) -> Array:
    """Numbered colours from a palette like '#000000 #ffffff', which repeats."""
    colours = np.stack([rgb(code) for code in palette.split()])
    return colours[np.mod(index, len(colours))]


def mosaic_design(width: int, height: int) -> Design:
    """A sun over the sea and a leaping fish."""
    x, y = pixel_grid(width, height)
    design = Design(np.zeros(x.shape, int), np.zeros((*x.shape, 3), np.float32), np.zeros_like(x))
    sun_x, sun_y = 0.93, 0.335
    r, turn = np.hypot(x - sun_x, y - sun_y), np.arctan2(y - sun_y, x - sun_x)
    wavy = r + 0.016 * np.sin(9 * turn + 9 * r)
    ring = np.floor((wavy - 0.30) / 0.072).astype(int)
    sky = pick_colours(ring, "#1f4f9e #3d86c6 #173a7d #5fb3cf #2a2f7e #8a3f8f")
    design.lay(np.ones(x.shape, bool), wavy, sky, ring)
    ray = np.floor((turn + np.pi) / (2 * np.pi) * 32).astype(int)
    tooth = np.abs(np.mod((turn + np.pi) / (2 * np.pi) * 16, 1) - 0.5) * 2
    design.lay(r < 0.215 + 0.095 * tooth, r, pick_colours(ray, "#e8442a #f4902a"), ray)
    design.lay(r < 0.215, r, np.broadcast_to(rgb("#7c1530"), sky.shape))
    design.lay(r < 0.185, r, np.broadcast_to(rgb("#f7b52c"), sky.shape))
    petal = np.floor((turn + np.pi) / (2 * np.pi) * 12 + 30 * r * 0.12).astype(int)
    design.lay(r < 0.150, r, pick_colours(petal, "#ffd95a #ef6a26"), petal)
    design.lay(r < 0.062, r, np.broadcast_to(rgb("#fff0b8"), sky.shape))
    mosaic_waves(design, x, y)
    mosaic_fish(design, x, y)
    return design


def mosaic_waves(design: Design, x: Array, y: Array) -> None:
    """Rows of round, banded waves over the lower third."""
    palette = "#f2efdc #159aa5 #0d4a73 #4fd0bd #12326b #0f7f86 #e9c46a"
    for level, span, shift in ((0.70, 0.36, 0.10), (0.815, 0.40, 0.29), (0.94, 0.46, 0.04)):
        cell = np.floor((x + shift) / span)
        centre = (cell + 0.5) * span - shift
        r = np.hypot(x - centre, (y - level - 0.55 * span) * 0.92)
        ring = np.floor((0.62 * span - r) / 0.031).astype(int)
        colour = pick_colours(np.maximum(ring, 0), palette)
        inside = (r < 0.62 * span) | (y > level + 0.45 * span)
        design.lay(inside, r, colour, ring + 40 * cell.astype(int))


def mosaic_fish(design: Design, x: Array, y: Array) -> None:
    """A big leaping fish with bands of scales, a forked tail and fins."""
    dx, dy = x - 0.345, y - 0.44
    tilt = np.deg2rad(-34)
    along = (dx * np.cos(tilt) + dy * np.sin(tilt)) / 0.27
    across = (-dx * np.sin(tilt) + dy * np.cos(tilt)) / 0.27 - 0.32 * along**2 + 0.10
    half = 0.40 * np.clip(1 - along**2, 0, 1) ** 0.75 * (1 + 0.25 * along)
    half += 0.055 * ((along < 0) & (along > -1))
    swing = np.arctan2(across + 0.02, -along - 0.84)
    reach = np.hypot(across + 0.02, along + 0.84)
    tail = (np.abs(swing) < 0.80) & (reach < 0.30 + 0.36 * np.abs(swing / 0.80) ** 1.3)
    tail_band = np.floor((swing + 0.80) / 0.20).astype(int)
    design.lay(tail, swing, pick_colours(tail_band, "#e8442a #f9c440"), tail_band)
    fin_base = np.clip(1 - ((along - 0.02) / 0.52) ** 2, 0, 1)
    fin = (across < 0) & (fin_base > 0)
    fin &= across > -half - 0.24 * fin_base * (0.75 + 0.25 * np.cos(24 * along))
    fin_band = np.floor(along * 9).astype(int)
    design.lay(fin, along, pick_colours(fin_band, "#b3203a #f4902a"), fin_band)
    belly = (across > 0) & (across < half + 0.16 * np.clip(1 - ((along + 0.18) / 0.22) ** 2, 0, 1))
    design.lay(belly, along, pick_colours(fin_band, "#f4902a #b3203a"), fin_band)
    body = (np.abs(across) < half) & (np.abs(along) < 1)
    arc = along - 0.42 * (across / 0.4) ** 2
    band = np.floor(arc * 7.5).astype(int)
    scales = pick_colours(band, "#f7efd6 #ee5a24 #f9b233 #d42f2f")
    design.lay(body, arc, scales, band)
    head = body & (along > 0.50 + 0.25 * (across / 0.3) ** 2)
    design.lay(head, along, np.broadcast_to(rgb("#f6c23e"), scales.shape))
    eye = np.hypot(along - 0.70, across + 0.05)
    design.lay(eye < 0.125, eye, np.broadcast_to(rgb("#fbf6e6"), scales.shape))
    design.lay(eye < 0.068, eye, np.broadcast_to(rgb("#101830"), scales.shape))


def nearest_tiles(design: Design, seeds: Array, spacing: float) -> Array:
    """Number of the nearest seed of each pixel's own region, measured in squares turned along the rows."""
    height, width = design.region.shape
    best = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int32)
    reach = int(1.5 * spacing) + 1
    columns, rows = seeds[:, 0].astype(int), seeds[:, 1].astype(int)
    angle, region = design.angle[rows, columns], design.region[rows, columns]
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    for k, (x, y) in enumerate(seeds.astype(np.float32)):
        left, top = max(columns[k] - reach, 0), max(rows[k] - reach, 0)
        window = (slice(top, rows[k] + reach), slice(left, columns[k] + reach))
        patch = best[window]
        dx = np.arange(left, left + patch.shape[1], dtype=np.float32)[None, :] - x
        dy = np.arange(top, top + patch.shape[0], dtype=np.float32)[:, None] - y
        distance = np.maximum(np.abs(dx * cosine[k] + dy * sine[k]), np.abs(dy * cosine[k] - dx * sine[k]))
        closer = (distance < patch) & (design.region[window] == region[k])
        patch[closer] = distance[closer]
        owner[window][closer] = k
    return owner


def relax_tiles(design: Design, spacing: float, rng: np.random.Generator, rounds: int) -> Array:
    """Spread seeds evenly: move each one to the middle of its tile again and again (Lloyd's method)."""
    height, width = design.region.shape
    columns, rows = np.meshgrid(
        np.arange(spacing / 2, width, spacing), np.arange(spacing / 2, height, spacing)
    )
    seeds = np.stack([columns.ravel(), rows.ravel()], 1) + rng.uniform(-0.4, 0.4, (columns.size, 2)) * spacing
    limit = np.array([width, height]) - 1.0
    y, x = np.mgrid[:height, :width]
    for _ in range(rounds):
        seeds = np.clip(seeds, 0, limit)
        owner = nearest_tiles(design, seeds, spacing)
        known = owner.ravel() >= 0
        keys = owner.ravel()[known]
        count = np.bincount(keys, minlength=len(seeds))
        middle = [
            np.bincount(keys, axis.ravel()[known], len(seeds)) / np.maximum(count, 1) for axis in (x, y)
        ]
        seeds = np.where(count[:, None] > 0, np.stack(middle, 1), seeds)
    return seeds[count > 0.12 * spacing**2]


def paint_mosaic(width: int, height: int) -> Array:
    """Glass and stone tesserae in dark grout."""
    rng = np.random.default_rng(77)
    spacing = height / 58
    coarse = mosaic_design(width // 2, height // 2)
    seeds = relax_tiles(coarse, spacing / 2, rng, rounds=12) * 2 + 0.5
    design = mosaic_design(width, height)
    owner = nearest_tiles(design, seeds, spacing)
    columns, rows = seeds[:, 0].astype(int), seeds[:, 1].astype(int)
    tone = design.colour[rows, columns]
    tone = tone * rng.normal(1.0, 0.13, (len(seeds), 1)) + rng.normal(0, 0.035, tone.shape)
    pale = rng.uniform(size=len(seeds)) < 0.06
    tone[pale] = mix(tone[pale], rgb("#fff2d0"), 0.45)
    tone = np.clip(tone, 0.02, 1)
    tilt = rng.normal(0, 0.16, (len(seeds), 2))
    x, y = pixel_grid(width, height)
    local = [(axis * height - seeds[owner, k]) / spacing for k, axis in enumerate((x, y))]
    glass = tone[owner]
    glass *= (1 + tilt[owner, 0] * local[0] * 1.6 + tilt[owner, 1] * local[1] * 1.6)[..., None]
    angle = design.angle[rows, columns][owner] + tilt[owner, 0]
    streak = local[0] * np.cos(angle) + local[1] * np.sin(angle)
    glass *= (1 + 0.09 * fractal(streak * 3.5 + owner * 1.37, (local[0] - local[1]) * 0.9, 3, seed=303))[
        ..., None
    ]
    border = np.zeros_like(x)
    border[:, 1:] += owner[:, 1:] != owner[:, :-1]
    border[1:] += owner[1:] != owner[:-1]
    edge = blur(np.clip(border, 0, 1), height / 560)
    gap = smoothstep(0.13, 0.30, np.where(owner < 0, 1, edge))
    dome = 1 - smoothstep(0.0, 0.24, blur(np.clip(border, 0, 1), height / 330))
    light = emboss(blur(dome, 1), height / 266)
    glass = glass * (1 + 0.34 * light[..., None])
    glint = np.clip(light - 0.45, 0, 1) + 0.6 * smoothstep(
        0.20, 0.05, np.hypot(local[0] + 0.18, local[1] + 0.18)
    )
    glass = glass + 0.13 * glint[..., None] * (0.4 + (tilt[owner, 0] < 0))[..., None]
    grit = fractal(x * 150, y * 150, 2, seed=305)
    grout = rgb("#1d1b22") * (1 + 0.35 * grit[..., None])
    return np.clip(mix(glass, grout, gap), 0, 1)


# ---------------------------------------------------------------------------------------------------------
# Woodcut
# ---------------------------------------------------------------------------------------------------------

PAPER, BLACK, VERMILION, OCHRE = "#f0e4c9", "#1b1719", "#d2452a", "#e2a63f"


def engrave(phase: Array, tone: Array, along: Array, seed: int) -> Array:
    """Ink of hand-cut lines, one per unit of `phase`, that swell with `tone` (0..1) and sometimes break."""
    wobble = (
        phase
        + 0.16 * gradient_noise(along * 9, phase * 0.7, seed)
        + 0.05 * gradient_noise(along * 45, phase, seed)
    )
    number = np.floor(wobble)
    swell = 0.20 * gradient_noise(along * 11 + 0.71 * number, number * 3.37 + 0.5, seed + 1)
    swell += 0.10 * gradient_noise(along * 50, number * 5.1 + 0.5, seed + 2)
    distance = np.abs(wobble - number - 0.5) * 2
    slope_y, slope_x = np.gradient(wobble)
    slope = np.clip(2 * np.hypot(slope_x, slope_y), 0.02, 0.6)
    thickness = np.clip(tone + swell * np.minimum(1, 4 * tone * (1.15 - tone)), 0, 1.05)
    return np.clip((thickness - distance) / slope + 0.5, 0, 1) * smoothstep(0.03, 0.10, thickness)


@dataclass
class Block:
    """The printing blocks of a picture: black ink and flat spot colours, filled from back to front."""

    x: Array
    y: Array
    black: Array
    spot: Array

    @classmethod
    def blank(cls, width: int, height: int) -> Block:
        """Bare paper."""
        x, y = pixel_grid(width, height)
        return cls(x, y, np.zeros_like(x), np.broadcast_to(rgb(PAPER), (height, width, 3)).copy())

    def crop(self, left: float, top: float, right: float, bottom: float) -> Block:
        """The part of the picture inside a box; printing there prints on the whole."""
        unit = 1 / (self.x[0, 1] - self.x[0, 0])
        rows = [max(0, round((edge - self.y[0, 0]) * unit + 0.5)) for edge in (top, bottom)]
        columns = [max(0, round((edge - self.x[0, 0]) * unit + 0.5)) for edge in (left, right)]
        window = (slice(*rows), slice(*columns))
        return Block(self.x[window], self.y[window], self.black[window], self.spot[window])

    def print(self, inside: Array, black: Array | float, spot: Array | str = PAPER) -> None:
        """Put lines and a flat colour where `inside` is 1, hiding what was there."""
        self.black += (black - self.black) * inside
        self.spot[...] = mix(self.spot, rgb(spot) if isinstance(spot, str) else spot, inside)


def woodcut_sky(block: Block, sun: tuple[float, float, float]) -> None:
    """Rings of lines around a striped sun, rays between them, and curling clouds."""
    x, y = block.x, block.y
    sx, sy, radius = sun
    wx, wy = warp(x, y, 0.03, 0.3, seed=401)
    r, turn = np.hypot(wx - sx, wy - sy), np.arctan2(y - sy, x - sx)
    rays = 0.5 + 0.5 * np.sin(turn * 26 + 0.5 * np.sin(turn * 5))
    tone = (
        0.10 + 0.30 * smoothstep(radius, 0.75, r) + 0.34 * (rays - 0.45) * smoothstep(radius, radius + 0.2, r)
    )
    lines = engrave(r / 0.0165, tone, turn * 0.9, 403)
    flat = mix(rgb(PAPER), rgb(OCHRE), (r < 0.40 + 0.13 * rays))
    block.print(np.ones_like(x), lines, flat)
    disc = smoothstep(radius + 0.001, radius - 0.001, np.hypot(x - sx, y - sy))
    cut = engrave(
        (y + 0.008 * np.sin(14 * x)) / 0.021, 0.52 * smoothstep(-0.2, 1.0, (y - sy) / radius), x, 405
    )
    block.print(disc, 0.0, mix(rgb(VERMILION), rgb(PAPER), 0.92 * cut))
    rim = smoothstep(
        0.005, 0.003, np.abs(np.hypot(x - sx, y - sy) - radius - 0.004 + 0.002 * np.sin(5 * turn))
    )
    np.maximum(block.black, rim, out=block.black)
    for cx, cy, size, seed in (
        (0.17, 0.20, 1.1, 1),
        (1.10, 0.15, 1.25, 2),
        (0.80, 0.42, 0.72, 3),
        (0.13, 0.43, 0.6, 4),
    ):
        woodcut_cloud(block.crop(cx - 0.27 * size, 0, cx + 0.27 * size, cy + 0.05), (cx, cy, size), seed)


def woodcut_cloud(block: Block, place: tuple[float, float, float], seed: int) -> None:
    """One heaped cloud with a flat base: rows of puffs, hatched inwards from their outlines."""
    x, y = block.x, block.y
    cx, cy, size = place
    rng = np.random.default_rng(410 + seed)
    for row, count in enumerate((4, 6, 8)):
        span = size * (0.10 + 0.045 * row)
        for across in rng.permutation(np.linspace(-1, 1, count)):
            px = cx + span * across + 0.01 * size * rng.normal()
            radius = size * rng.uniform(0.036, 0.058) * (1 - 0.12 * row) * (1.1 - 0.35 * abs(across))
            py = cy - size * (0.062 - 0.030 * row) * (1.25 - abs(across))
            dx, dy = x - px, np.minimum(y - py, 0)
            r = np.hypot(dx, dy) / radius
            inside = smoothstep(1.01, 0.99, r) * smoothstep(cy + 0.001, cy - 0.001, y)
            shade = smoothstep(-1.1, 1.3, dx / radius) * smoothstep(0.30, 1.0, r)
            lines = engrave(r * radius / 0.0088, 0.16 + 0.60 * shade, np.arctan2(dy, dx) + y * 4, 420 + seed)
            lines *= smoothstep(0.38, 0.50, r - 0.3 * (y - py) / radius)
            outline = smoothstep(1 - 0.0065 / radius, 1 - 0.0050 / radius, r)
            block.print(inside, np.maximum(lines, outline))
    base = smoothstep(0.0035, 0.0020, np.abs(y - cy)) * smoothstep(0.20 * size, 0.18 * size, np.abs(x - cx))
    np.maximum(block.black, base, out=block.black)


def woodcut_mountains(block: Block) -> None:
    """A jagged range whose faces are hatched down the slope, dark on the side away from the sun."""
    x, y = block.x, block.y
    ridge_line = 0.64 - 0.42 * ridged(x * 1.7 + 0.35, 0 * x + 0.7, 5, seed=431) * (
        0.62 + 0.75 * np.abs(x - 0.54)
    )
    drop = y - ridge_line
    lean = x + 0.55 * drop * np.sin(x * 19) + 0.02 * fractal(x / 0.06, y / 0.06, 3, seed=433)
    profile = ridged(lean * 1.7 + 0.35, 0 * x + 0.7, 5, seed=431)
    facing = np.gradient(profile, axis=1) * np.sign(0.52 - x) / (x[0, 1] - x[0, 0])
    tone = np.clip(
        0.38 - 0.14 * np.sign(facing) * np.sqrt(np.abs(facing)) + 0.25 * smoothstep(0.05, 0.3, drop),
        0.02,
        0.92,
    )
    lines = engrave((lean + 0.35 * np.sign(x - 0.52) * drop) / 0.0125, tone, y, 435)
    lines = np.maximum(lines, smoothstep(0.006, 0.004, drop))
    block.print(smoothstep(-0.001, 0.001, drop), lines)


def woodcut_hills(block: Block) -> None:
    """Three rolling hills: the first is furrowed along its shape, the others in fans."""
    x, y = block.x, block.y
    specs = (
        (0.565, 0.045, 3.1, 0.4, OCHRE, 0.0),
        (0.655, 0.060, 2.3, 2.2, PAPER, 0.9),
        (0.735, 0.050, 2.9, 4.9, OCHRE, -2.2),
    )
    for k, (level, swing, rate, shift, tint, fan) in enumerate(specs):
        top = level - swing * np.sin(rate * x + shift) - 0.3 * swing * np.sin(2.6 * rate * x + 2 * shift)
        drop = y - top
        facing = np.gradient(top, axis=1) / (x[0, 1] - x[0, 0])
        tone = 0.40 + 0.7 * facing * (1 if fan <= 0 else -1) + 0.40 * smoothstep(0.02, 0.22, drop)
        tone = tone + 0.20 * fractal(x / 0.2, y / 0.1, 2, seed=441 + k)
        if fan:
            furrows = engrave((0.8 * x + (fan + x) * 2.2 * drop) / 0.0185, tone, y, 445 + k)
        else:
            furrows = engrave(drop * (1 + 0.5 * facing) / 0.0130, tone, x, 445 + k)
        crest = smoothstep(0.0055, 0.0035, drop)
        block.print(smoothstep(-0.001, 0.001, drop), np.maximum(furrows, crest), tint)


def woodcut_water(block: Block, sun: tuple[float, float, float]) -> None:
    """Scalloped waves that carry the sun's reflection."""
    x, y = block.x, block.y
    shore = 0.80 + 0.012 * np.sin(6 * x)
    drop = np.maximum(y - shore, 0)
    inside = smoothstep(-0.001, 0.001, y - shore)
    wx, wy = warp(x, y, 0.012, 0.12, seed=461)
    rows = np.log1p(drop * 9) * 8.5
    row = np.floor(rows)
    for number in range(int(rows.max()) + 1):
        span = 0.060 + 0.021 * number
        scallop = np.abs(np.sin(np.pi * (wx / span + 0.5 * (number % 2) + 0.13 * number)))
        edge = (np.expm1(number / 8.5) / 9) + shore - 0.30 * span * (1 - scallop) + 0.004
        under = wy - edge
        depth = np.clip(under / (0.34 * span), 0, 3)
        tone = 0.95 - 0.62 * smoothstep(0.0, 1.3, depth) + 0.15 * fractal(x / 0.1, y / 0.1, 2, seed=463)
        lines = engrave(under / (0.0085 + 0.0012 * number), tone, x, 465 + number)
        lines *= smoothstep(0.0045, 0.0075, under)
        glint = 0.085 - 0.12 * drop + 0.05 * gradient_noise(x / 0.09, 0 * y + 2.7 * number, 464)
        tint = mix(rgb(PAPER), rgb(VERMILION), (np.abs(x - sun[0]) < glint) * (depth < 0.75))
        block.print(smoothstep(-0.001, 0.001, under) * inside * (row >= number - 1), lines, tint)


def woodcut_trees(whole: Block) -> None:
    """Black cypresses with a few cut highlights."""
    for cx, foot, tall, fat in (
        (1.215, 0.88, 0.66, 0.062),
        (1.095, 0.84, 0.40, 0.044),
        (1.285, 0.90, 0.46, 0.050),
        (0.100, 0.84, 0.34, 0.038),
        (0.035, 0.86, 0.50, 0.050),
    ):
        block = whole.crop(cx - 2 * fat, foot - tall, cx + 2 * fat, foot)
        x, y = block.x, block.y
        t = np.clip((foot - y) / tall, 0, 1)
        flame = (
            fat
            * np.clip(np.sin(np.pi * t**0.62), 0, 1) ** 0.8
            * (1 + 0.06 * np.sin(110 * t * tall + 40 * cx) + 0.10 * gradient_noise(y / 0.02, x / 0.05, 483))
        )
        offset = x - cx - 0.012 * np.sin(9 * t)
        inside = smoothstep(0.0015, -0.0015, np.abs(offset) - flame)
        across = offset / np.maximum(flame, 1e-3)
        side = across if cx > 0.5 else -across
        cuts = engrave(
            3.8 * across + 7.2 * t + 0.22 * np.sin(34 * t), 0.30 * smoothstep(0.25, -0.9, side), y, 481
        )
        block.print(inside, 1 - cuts)


def paint_woodcut(width: int, height: int) -> Array:
    """A two-colour woodcut: sun, clouds, mountains, fields and water."""
    sun = (0.56, 0.285, 0.135)
    block = Block.blank(width, height)
    x, y, right = block.x, block.y, width / height
    woodcut_sky(block.crop(0, 0, right, 0.64), sun)
    woodcut_mountains(block.crop(0, 0.2, right, 0.7))
    woodcut_hills(block.crop(0, 0.45, right, 1))
    woodcut_water(block.crop(0, 0.76, right, 1), sun)
    woodcut_trees(block)
    grain = fractal(x * 190, y * 190, 3, seed=491)
    fibre = fractal(x * 26, y * 150, 3, seed=493)
    paper = 1 + 0.030 * grain + 0.022 * fibre
    worn = smoothstep(0.95, 0.45, grain + 0.9 * fractal(x * 9, y * 9, 3, seed=495))
    misprint = np.pad(block.spot, ((3, 0), (0, 3), (0, 0)), mode="edge")[:height, 3:]
    spot = mix(rgb(PAPER), misprint, 0.80 + 0.2 * worn)
    coverage = block.black * (0.80 + 0.19 * worn)
    return np.clip(mix(spot, rgb(BLACK), coverage) * paper[..., None], 0, 1)


PICTURES: dict[str, tuple[str, float, Callable[[int, int], Array]]] = {
    "lake": ("content", 2 / 3, paint_lake),
    "lighthouse": ("content", 2 / 3, paint_lighthouse),
    "swirls": ("styles", 0.78, paint_swirls),
    "mosaic": ("styles", 0.78, paint_mosaic),
    "woodcut": ("styles", 0.75, paint_woodcut),
}


def main() -> None:
    """Paint the pictures asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="output folder")
    parser.add_argument("--size", type=int, default=768, help="long edge in pixels")
    parser.add_argument("--only", nargs="*", choices=sorted(PICTURES), help="paint just these pictures")
    options = parser.parse_args()
    for name in options.only or PICTURES:
        folder, aspect, painter = PICTURES[name]
        start = time.perf_counter()
        width, height = options.size, round(options.size * aspect)
        image = to_image(painter(2 * width, 2 * height)).resize((width, height), Image.Resampling.LANCZOS)
        path = options.out / folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90, subsampling=0)
        print(f"{path}  {path.stat().st_size // 1024} KiB  {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
