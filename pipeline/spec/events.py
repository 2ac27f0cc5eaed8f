"""The events that hooks may be told of."""

from __future__ import annotations

from typing import Literal

# A picture is done; a picture, or a dropped file, failed; a batch ended; the daemon paused or resumed.
EventKind = Literal["done", "failed", "batch_ended", "paused", "resumed"]
