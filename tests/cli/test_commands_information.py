from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline.spec.presets import PRESETS
from pipeline.spec.recipe import FIRST_FIELDS, Recipe


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_can_be_pasted_into_a_manifest(cli, night, name):
    code, out, _ = cli("presets", name)
    assert code == 0
    Path("pasted.yaml").write_text(out + "contents: [a.png]\nstyles: [s.png]\n")
    code, out, err = cli("run", "pasted.yaml", "--dry-run", "--set", "encoder=vgg19-slim")
    assert code == 0, err
    assert yaml.safe_load(cli("presets", name)[1])["recipe"]["preset"] == name


@pytest.mark.parametrize("name", PRESETS)
def test_the_fields_that_people_change_first_stand_apart(cli, name):
    head, first, rest = cli("presets", name)[1].split("\n\n")
    recipe = Recipe(preset=name).model_dump(mode="json")
    assert head == f"recipe:\n  preset: {name}"
    assert [line.split(":")[0].strip() for line in first.splitlines()[1:]] == [*FIRST_FIELDS]
    assert {**yaml.safe_load(first), **yaml.safe_load(rest), "preset": name} == recipe


def test_presets_lists_them_all(cli):
    _, out, _ = cli("presets")
    assert [line.split()[0] for line in out.splitlines()] == list(PRESETS)


@pytest.mark.parametrize("kind", ["manifest", "config"])
def test_schema_is_json(cli, kind):
    code, out, _ = cli("schema", kind)
    assert code == 0
    schema = json.loads(out)
    assert schema["type"] == "object"
    assert "recipe" in schema["properties"]


def test_doctor_and_weights_show(cli):
    code, out, err = cli("doctor")
    assert code == 0, err
    for words in ("Python 3.", "torch", "device", "takes vgg19-slim", "outbox", "GiB free"):
        assert words in out
    lines = cli("weights", "show")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["vgg19", "vgg19-slim", "auto"]
    assert lines[0].endswith(": comes with the package")
    Path("config.yaml").write_text("{memory_mb: 2048}")
    assert re.search(r"memory +\d+\.\d GiB free on cpu; memory_mb allows 2\.0 GiB\n", cli("doctor")[1])
    code, out, _ = cli("doctor", "--device", "cuda:77")
    assert code == 3
    assert "BAD  chosen" in out


@pytest.mark.parametrize("outbox", ["file/outbox", "x" * 300])
def test_a_folder_that_cannot_be_made_is_seen_by_the_doctor(cli, outbox):
    Path("file").write_text("")
    Path("config.yaml").write_text(f"outbox: {outbox}\n")
    code, out, _ = cli("doctor")
    assert code == 3
    assert "BAD  outbox" in out
