"""Every command, manifest and script in README and docs works as it stands there.

A block that cannot be run has a comment above it: `<!-- not run: reason -->`. Its commands are still checked
for options and arguments that do not exist.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import pipeline
from pipeline.cli.hook_display import example_event
from pipeline.cli.main import app
from pipeline.hooks.command import run_command
from pipeline.hooks.queues import check_hooks
from pipeline.spec.config import Config, read_config
from pipeline.spec.manifest import read_manifest
from pipeline.spec.presets import PRESETS
from pipeline.spec.recipe import Recipe

ROOT = Path(pipeline.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

CONTENTS = ("me", "city", "lake", "lighthouse", "photos/me", "photos/lake")
STYLES = ("a", "b", "monet", "scream", "night", "houses", "swirls", "mosaic", "woodcut", "starry_night")
CONFIG: dict[str, Any] = {
    "recipe": {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 1, "recolor": False},
    "workers": 1,
    "watch": {"settle_s": 0.05},
}
# Commands that answer a question with their exit code: no daemon runs here.
ANSWERS = {"style-pipeline health": 3}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def lines(self) -> list[str]:
        """Return the commands of a shell block, without comments."""
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in self.text.splitlines()]
        return [line for line in lines if line]


def read_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    pattern = r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, found.start("text")) + 1
        reason = found["reason"] or ""
        yield Block(str(page.relative_to(ROOT)), line, found["language"], found["text"], reason)


def inline_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for command in re.findall(r"`(style-pipeline [^`]+)`", text):
            yield page.name, " ".join(command.split())


@pytest.fixture
def studio(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of, and the commands that they use."""
    for number, name in enumerate(CONTENTS):
        draw(environment / f"{name}.jpg", number)
    for number, name in enumerate(STYLES):
        for folder in ("", "styles", "inbox/styles"):
            draw(environment / folder / f"{name}.jpg", 100 + number)
    mask = Image.new("RGB", (48, 32), "#000000")
    mask.paste("#ff0000", (24, 0, 48, 32))
    mask.save(environment / "regions.png")
    (environment / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (environment / "overnight.yaml").write_text("contents: [photos/*.jpg]\nstyles: [monet.jpg, scream.jpg]\n")
    commands = environment / "bin"
    commands.mkdir()
    script(commands / "style-pipeline", f'exec {shlex.quote(sys.executable)} -m pipeline "$@"')
    # What a target does is not done, but it has to be there.
    script(commands / "make", f'exec {shutil.which("make")} -n -C {shlex.quote(str(ROOT))} "$@"')
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(PRESETS["draft"].fields, "steps", (1,))
    return environment


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.radial_gradient("L").resize((48, 32)).point(lambda value: (value * (seed + 1)) % 256)
    picture.convert("RGB").save(path)


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_there_is_something_to_check() -> None:
    assert len(read_blocks("sh")) > 10
    assert len(read_blocks("yaml")) > 3
    assert len(read_blocks("python")) > 0
    assert len(list(inline_commands())) > 10
    assert {block.language for page in PAGES for block in blocks(page)} <= {"sh", "yaml", "python", ""}


@pytest.mark.parametrize("block", [b for b in read_blocks("sh") if not b.not_run], ids=str)
def test_commands_run(block: Block, studio: Path, cli: Any) -> None:
    """By a shell where they need one; else in this process, which has loaded torch already."""
    for line in block.lines():
        program, *words = shlex.split(line)
        if program == "style-pipeline" and not set(words) & {">", "|"}:
            code, *said = cli(*words)
        else:
            done = subprocess.run(
                ["sh", "-c", line], capture_output=True, text=True, timeout=600, check=False
            )
            code, said = done.returncode, [done.stdout, done.stderr]
        assert code == ANSWERS.get(line, 0), "\n".join([line, *said])


def parse(command: str) -> None:
    """Let the command line be parsed, and no more."""
    command = re.split(r"\s(?:[|>&]|2>)", command)[0]
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.mark.parametrize("block", [b for b in read_blocks("sh") if b.not_run], ids=str)
def test_commands_that_are_not_run_can_be_parsed(block: Block) -> None:
    for line in block.lines():
        for part in line.split(" && "):
            if part.startswith("style-pipeline"):
                parse(part)
            elif part.startswith("python tools/"):
                assert (ROOT / part.split()[1]).is_file()


@pytest.mark.parametrize(("page", "command"), sorted(set(inline_commands())))
def test_commands_in_sentences_can_be_parsed(page: str, command: str) -> None:
    parse(command)


@pytest.mark.parametrize("block", read_blocks("yaml"), ids=str)
def test_documents_are_read(block: Block, studio: Path) -> None:
    path = studio / "document.yaml"
    path.write_text(block.text)
    if set(yaml.safe_load(block.text)) <= set(Config.model_fields):
        read_config(path)
    else:
        assert read_manifest(path, {}, {}).count > 0


HOOKS = [block for block in read_blocks("yaml") if block.text.startswith("hooks:")]
# Programs that reach out: they note what they are given, and no more.
REACH_OUT = ("mail", "curl", "notify-send")


@pytest.mark.parametrize("block", HOOKS, ids=str)
def test_hooks_run(block: Block, studio: Path) -> None:
    """Every hook does with an event what it is there for: it tells someone, or copies the picture."""
    (studio / "config.yaml").write_text(block.text)
    (studio / "frame").mkdir()
    for name in REACH_OUT:
        script(studio / "bin" / name, 'printf "%s\\n" "$0" "$@" >> told; cat >> told')
    (studio / "outbox/example").mkdir(parents=True)
    shutil.copy(studio / "me.jpg", studio / "outbox/example/photo--monet.png")
    config = read_config(None)
    check_hooks(config.hooks)
    told, copy = studio / "told", studio / "frame/photo--monet.png"
    for hook in config.hooks:
        for event in (example_event(kind, config) for kind in hook.when):
            told.write_text("")
            ended = run_command(hook.run, event.data(), hook.folder, 30, event.variables())
            assert ended.problem == "", ended
            assert told.read_text() or copy.is_file()


@pytest.mark.parametrize("block", read_blocks("python"), ids=str)
def test_scripts_run(block: Block, studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.api import stylize

    def quick(content: Any, style: Any, recipe: Any = None, **more: Any) -> Image.Image:
        fields = recipe if isinstance(recipe, dict) else {}
        # Layers that also fit into a part of so small a picture.
        small = {**CONFIG["recipe"], "style_layers": ["relu1_1", "relu2_1"]}
        return stylize(content, style, {**fields, **small}, **more)

    monkeypatch.setattr(pipeline, "stylize", quick, raising=False)
    scope: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), scope)
    assert isinstance(scope["image"], Image.Image)


def test_the_table_of_fields_is_complete() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([^`]*)` \|", (ROOT / "docs/recipes.md").read_text(encoding="utf-8"), re.M
    )
    written = dict(rows)
    for name, field in Recipe.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        read = written[name] if isinstance(default, str) else yaml.safe_load(written[name])
        assert read == default, name


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
