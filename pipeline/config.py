"""config.yaml -> Config. Without a file the defaults here hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, WrapValidator, field_validator

from .documents import read_document
from .recipe import INIT_MODES, Recipe, canonical_keys

CONFIG_NAME = "config.yaml"


def _keep_given(value: Any, check: Callable[[Any], Recipe]) -> Any:
    """Validate fields of a recipe, but keep only those given, so that layers can be laid on them."""
    check(value)
    return canonical_keys(value)


if TYPE_CHECKING:
    RecipeFields = dict[str, Any]
else:
    RecipeFields = Annotated[Recipe, WrapValidator(_keep_given)]


class Config(BaseModel):
    """Where things are and how jobs run unless a manifest or a flag says otherwise.

    Paths are absolute once read: a relative one starts at the configuration's own folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    outbox: Path = Field(Path("outbox"), description="where results are published")
    state_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_state_dir("style-pipeline", appauthor=False)),
        description="attempts and checkpoints; on a local disk",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("style-pipeline", appauthor=False)),
        description="style targets and encoder weights; may be deleted at any time",
    )
    cache_max_mb: int = Field(1024, ge=1, description="style targets kept on disk, in MB")
    weights: Path | None = Field(None, description="a VGG-19 checkpoint to use for the encoder vgg19")
    allow_download: bool = Field(True, description="let auto and vgg19 download the weights")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N"
    )
    max_attempts: int = Field(3, ge=1, description="a job that killed the process so often is set aside")
    max_failures: int = Field(0, ge=0, description="stop the batch after so many failed jobs; 0: never")
    checkpoint_s: float = Field(30.0, gt=0, description="seconds between checkpoints of a running job")
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job")

    @field_validator("outbox", "state_dir", "cache_dir", "weights")
    @classmethod
    def _known_home(cls, path: Path | None) -> Path | None:
        try:
            return None if path is None else path.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    def resolved(self, folder: Path) -> Config:
        """Return the same configuration with every path absolute, relative ones below `folder`."""
        paths: dict[str, Any] = {
            name: (folder / value.expanduser()).resolve()
            for name in ("outbox", "state_dir", "cache_dir", "weights")
            if (value := getattr(self, name)) is not None
        }
        return self.model_copy(update={**paths, "recipe": anchor_init(self.recipe, folder)})


def anchor_init(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the path of a picture under `init` absolute, relative ones below `folder`."""
    init = fields.get("init")
    if not isinstance(init, str) or init in INIT_MODES:
        return fields
    try:
        return {**fields, "init": str((folder / Path(init).expanduser()).resolve())}
    except (RuntimeError, ValueError, OSError):  # the home of nobody, a NUL: no such file, as will be said
        return fields


def read_config(path: Path | None) -> Config:
    """Read `path`, or config.yaml in the current folder where there is one, or take the defaults.

    Raises:
        UsageError: `path` is missing, or the file has anything wrong in it.
    """
    if path is None and not Path(CONFIG_NAME).is_file():
        return Config().resolved(Path.cwd())
    path = path or Path(CONFIG_NAME)
    document = read_document(path)
    return document.validate(Config).resolved(path.parent)
