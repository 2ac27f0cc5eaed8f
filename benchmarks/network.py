"""A full-width VGG-19 with random weights, as a file: its steps cost what the trained one's do.

python -m benchmarks.network FILE.safetensors
"""

from __future__ import annotations

import sys

from safetensors.torch import save_file

from benchmarks.step import random_weights


def main() -> None:
    save_file(random_weights(), sys.argv[1])


if __name__ == "__main__":
    main()
