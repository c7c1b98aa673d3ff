"""Draws the pictures of the vision demo's prompts.

    python -m models.tt_transformers.tools.draw_sample_images [FOLDER]

They are our own, a few kB each, and differ in shape, so that they take one to four tiles of a model for 560 x 560 pixels.
"""

import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parents[1] / "demo/sample_prompts/images"


def shapes():
    """A red circle, a blue square and a yellow triangle on white."""
    image, draw = _canvas(448, 448)
    draw.ellipse((40, 40, 200, 200), fill="crimson")
    draw.rectangle((250, 60, 400, 210), fill="royalblue")
    draw.polygon([(220, 250), (100, 410), (340, 410)], fill="gold")
    return image


def chart():
    """Five bars."""
    image, draw = _canvas(900, 500)
    for index, height in enumerate((180, 320, 90, 400, 250)):
        left = 80 + 160 * index
        draw.rectangle((left, 450 - height, left + 100, 450), fill="seagreen")
    draw.line((50, 450, 870, 450), fill="black", width=4)
    return image


def landscape():
    """A sun over two hills by a lake, in a wide picture."""
    image, draw = _canvas(1600, 420, "skyblue")
    draw.ellipse((1250, 40, 1370, 160), fill="gold")
    draw.ellipse((-100, 220, 800, 900), fill="olivedrab")
    draw.ellipse((600, 260, 1500, 900), fill="darkolivegreen")
    draw.rectangle((0, 360, 1600, 420), fill="steelblue")
    return image


def clock(hour: int):
    """The face of a clock at a full hour."""
    image, draw = _canvas(700, 700)
    draw.ellipse((50, 50, 650, 650), outline="black", width=10)
    for mark in range(12):
        draw.line((*_at(mark, 260), *_at(mark, 290)), fill="black", width=8)
    draw.line((350, 350, *_at(0, 230)), fill="black", width=8)
    draw.line((350, 350, *_at(hour, 150)), fill="crimson", width=14)
    return image


def _canvas(width: int, height: int, colour: str = "white"):
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)


def _at(hour: int, radius: int) -> tuple[float, float]:
    angle = math.tau * hour / 12
    return 350 + radius * math.sin(angle), 350 - radius * math.cos(angle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"shapes": shapes(), "chart": chart(), "landscape": landscape(), "clock_9": clock(9), "clock_3": clock(3)}
    for name, image in pictures.items():
        # 16 colours are enough for flat areas, and make files of a few kB.
        image.quantize(16).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
