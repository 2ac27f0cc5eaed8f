"""Output names: templates such as {content}--{style}, filled with values and made safe as paths."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from string import Formatter
from typing import Any

from ..errors import UsageError
from .problems import alternatives

# The greatest width that a template may pad a value to, as in {step:04d}.
MAX_WIDTH = 200

# Most names are safe as they are: plain characters, and neither a dot nor a space at an end.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9 ._+-]{0,198}[A-Za-z0-9_-])?")


def check_template(template: str, accepted: Collection[str]) -> None:
    """Check that a template uses only accepted fields, and pads none of them too far.

    Raises:
        ValueError: it does not.
    """
    for _, field, spec, _ in Formatter().parse(template):
        if field is not None and field not in accepted:
            raise ValueError(f"'{{{field}}}' is not known{alternatives(field, accepted)}")
        widths = re.findall("[0-9]+", spec or "")
        if "{" in (spec or "") or any(len(width) > 3 or int(width) > MAX_WIDTH for width in widths):
            raise ValueError(f"'{{{field}:{spec}}}' cannot be filled: at most {MAX_WIDTH} characters wide")


def fields_of(template: str) -> set[str]:
    """Return the fields that a template uses.

    Raises:
        ValueError: it is not a valid template.
    """
    return {field for _, field, _, _ in Formatter().parse(template) if field is not None}


def fill_template(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template; the result is a relative path that stays in its folder.

    Raises:
        UsageError: it cannot be filled, for instance because a format does not fit its value.
    """
    flat = {name: _flat(value) for name, value in values.items()}
    try:
        filled = template.format(**flat)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise UsageError(f"The output name '{template}' cannot be filled: {error}.") from error
    return safe_name(filled)


def _flat(value: Any) -> Any:
    """Keep the folders of a path out of a name."""
    return value.replace("/", "_").replace("\\", "_") if isinstance(value, str) else value


def sweep_label(sweep: Mapping[str, Any]) -> str:
    """Return what a template's {sweep} stands for: every swept field with its value."""
    labels = []
    for key, value in sweep.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        text = re.sub(r"[^\w.+-]+", "_", text).strip("_")
        labels.append(f"--{key}-{text}")
    return "".join(labels)


def safe_name(name: str) -> str:
    """Turn any text into a relative path inside its folder, with no hidden parts, that any system accepts."""
    return name if _SAFE_NAME.fullmatch(name) else _made_safe(name)


def _made_safe(name: str) -> str:
    parts = []
    for part in unicodedata.normalize("NFC", name).split("/"):
        part = "".join(c if c.isprintable() else "_" for c in part)
        part = re.sub(r'[<>:"\\|?*]', "_", part).lstrip(". ")
        # 255 bytes is the usual limit of a file name; leave room for a short id and a suffix.
        part = part.encode()[:200].decode("utf-8", "ignore").rstrip(". ")
        if part:
            parts.append(part)
    return "/".join(parts) or "unnamed"
