"""A batch's folder with made-up records, for the views over them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.spec.recipe import Recipe

HEADER = "step,size,total,content,style,tv,seconds"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def draw(path: Path, color: str = "teal", size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def add_record(folder: Path, content: Path, style: Path, /, name: str = "", **changes: Any) -> dict[str, Any]:
    """Write the picture, log and record of a job; `changes` replace fields of its record or recipe."""
    name = name or f"{content.stem}--{style.stem}"
    recipe = Recipe(**changes.pop("recipe", {})).model_dump(mode="json")
    record = {
        "status": "done",
        "key": hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest(),
        "content": {"path": str(content), "sha256": sha256(content)},
        "style": {
            "name": style.stem,
            "images": [{"path": str(style), "sha256": sha256(style), "share": 1.0}],
        },
        "recipe": recipe,
        "encoder": {"name": "vgg19-slim", "digest": "d"},
        "width": 60,
        "height": 40,
        "seconds": 2.5,
        "device": "cpu",
        "adjusted": [],
        "notes": [],
        "error": "",
        "next_step": "",
        "finished": "2030-01-02T03:04:05+00:00",
        "image": f"{name}.png",
        **changes,
    }
    logs = folder / "logs"
    (logs / name).parent.mkdir(parents=True, exist_ok=True)
    (logs / f"{name}.json").write_text(json.dumps(record))
    if record["status"] == "done":
        draw(folder / record["image"], "olive")
        rows = [
            f"{step},{64 if step < 5 else 128},{9 / step:.6g},{5 / step:.6g},0.5,0.1,{step}"
            for step in range(1, 9)
        ]
        (logs / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return record


def failed(error: str = "a.png: broken.", next_step: str = "Copy it again.") -> dict[str, Any]:
    return {"status": "failed", "error": error, "next_step": next_step, "image": "", "width": 0, "height": 0}
