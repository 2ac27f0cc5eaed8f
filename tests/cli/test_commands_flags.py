from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import opened

from pipeline.cli.commands.flags import read_settings, recipe_fields
from pipeline.errors import UsageError


def test_flags_win(cli, night):
    code, _, err = cli("run", night, "--outbox", "there", "--set", "size=44", "--set", "format=jpeg")
    assert code == 0, err
    assert opened("there/night/a--s.jpg").size == (44, 33)


def test_a_user_without_a_home_works_in_the_folders_of_the_configuration(cli, night, homeless):
    Path("config.yaml").write_text("outbox: o\nstate_dir: s\ncache_dir: c\n")
    code, _, err = cli("run", night)
    assert code == 0, err
    assert Path("o/night/a--s.png").exists()
    assert cli("status")[0] == 0
    code, out, _ = cli("service", "systemd")
    assert code == 0
    assert f"User={os.getuid()}\n" in out


def test_a_user_without_a_home_is_told_which_folder_has_no_place(cli, night, homeless):
    Path("config.yaml").write_text("state_dir: s\n")
    code, _, err = cli("run", night)
    assert code == 2
    assert err == (
        "Error: There is no place for cache_dir: this user has no home folder.\n"
        "Set cache_dir in config.yaml, or HOME.\n"
    )
    assert not Path("~").exists()


def test_flags_are_named_as_they_are_typed():
    with pytest.raises(UsageError, match=r"^--max-failures: "):
        read_settings(None, max_failures=-1)
    with pytest.raises(UsageError, match=r"^--device: "):
        read_settings(None, device="fast")


def test_the_outbox_of_a_flag_starts_at_the_current_folder_or_a_home(environment, monkeypatch):
    monkeypatch.setenv("HOME", str(environment / "home"))
    assert read_settings(None, outbox=Path("there")).outbox == environment / "there"
    assert read_settings(None, outbox=Path("~/there")).outbox == environment / "home/there"
    with pytest.raises(
        UsageError, match=r"^--outbox: there is no home folder '~no-such-user'; write the path"
    ):
        read_settings(None, outbox=Path("~no-such-user/x"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{content}", "{content}"),
        ("{content}-{size:04d}", "{content}-{size:04d}"),
        ("'{content}-x'", "{content}-x"),
        ("x-{content}", "x-{content}"),
    ],
)
def test_a_name_may_begin_with_a_field(text, name):
    assert recipe_fields(None, [f"name={text}"]) == {"name": name}


def test_flags_may_need_a_field_of_the_manifest():
    assert recipe_fields("gatys-lbfgs", ["bit_depth=16"]) == {"preset": "gatys-lbfgs", "bit_depth": 16}
    assert recipe_fields(None, ["match_by=histogram"]) == {"match_by": "histogram"}
