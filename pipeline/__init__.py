"""Neural style transfer as a batch pipeline.

In a notebook: `from pipeline import stylize, Recipe`.
"""

from typing import TYPE_CHECKING, Any

from . import version

if TYPE_CHECKING:
    from .api import stylize
    from .spec.jobs import StepProgress
    from .spec.recipe import Recipe

__all__ = ["Recipe", "StepProgress", "__version__", "stylize"]

__version__ = version.VERSION

_HOMES = {"stylize": "api", "Recipe": "spec.recipe", "StepProgress": "spec.jobs"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `style-pipeline --help` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
