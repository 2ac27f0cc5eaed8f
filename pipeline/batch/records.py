"""A record: what made a picture, as it is written beside it, and what differs between two of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..spec.jobs import NO_IDENTITY, EncoderInfo, Job, JobResult, result_summary
from ..spec.regions import color_value

# A content and its styles, by their paths.
Pair = tuple[str, tuple[str, ...]]


def job_record(
    job: Job, key: str, digests: Mapping[Path, str], encoder: EncoderInfo | None, result: JobResult
) -> dict[str, Any]:
    """Return the record of a job and its result. `digests` has the sha256 of the inputs that were read."""

    def file(path: Path, **more: object) -> dict[str, Any]:
        return {"path": str(path), "sha256": digests.get(path, ""), **more}

    summary = result_summary(result)
    colors = {str(path): color_value(color) for path, color in job.regions.items()}
    return {
        "status": summary.pop("status"),
        "key": key,
        **({"drop": job.drop} if job.drop else {}),
        "content": {**file(job.content), "path": str(job.origin or job.content)},
        "style": {
            "name": job.style.name,
            "images": [file(path, share=share) for path, share in job.style.images],
        },
        "init": file(job.init_path) if job.init_path else None,
        "masks": {"content": file(job.masks.content), "styles": colors} if job.masks else None,
        "recipe": job.recipe.model_dump(mode="json"),
        "encoder": {"name": encoder.name, "digest": encoder.digest} if encoder else None,
        **summary,
        "finished": now(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def pair_of_record(record: Mapping[str, Any]) -> Pair | None:
    """Return the pair of a record; None if it is damaged."""
    try:
        images = record["style"]["images"]
        return str(record["content"]["path"]), tuple(str(image["path"]) for image in images)
    except (KeyError, TypeError):
        return None


def pair_of_job(job: Job) -> Pair:
    return str(job.origin or job.content), tuple(str(path) for path, _ in job.style.images)


def key_of_unread(content: str) -> str:
    """Return what stands for the key of a job that has none, so that jobs of one name are told apart."""
    return hashlib.sha256(os.fsencode(content)).hexdigest()


def what_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name what differs in the records of two results of one pair."""
    parts = (
        ("the content", lambda record: record["content"]["sha256"]),
        ("the style", lambda record: [(i["sha256"], i["share"]) for i in record["style"]["images"]]),
        ("the picture to start from", lambda record: (record["init"] or {}).get("sha256")),
        ("the mask", lambda record: record["masks"]),
        ("the recipe", lambda record: _identity(record["recipe"])),
        ("the encoder", lambda record: record["encoder"]["digest"]),
    )
    names = []
    for name, part in parts:
        with suppress(KeyError, TypeError, AttributeError):  # a damaged record
            if part(old) != part(new):
                names.append(name)
    return " and ".join(names) or "the program"


def _identity(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe that count in a job's key."""
    return {name: value for name, value in recipe.items() if name not in NO_IDENTITY}
