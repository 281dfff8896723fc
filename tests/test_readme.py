"""The README says what is there: its file tree, the help text, and the commands it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from spectokenizer.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The code block between the README's comments <!-- name:begin --> and <!-- name:end -->."""
    found = re.search(rf"<!-- {name}:begin -->\n```\w*\n(.*?)\n```\n<!-- {name}:end -->", README, re.DOTALL)
    assert found, f"README.md has no code block marked {name}"
    return found[1]


def tree() -> dict[str, str]:
    """Path → description; a folder ends in "/" and what is in it stands below it, two spaces further in."""
    paths: dict[str, str] = {}
    folders: list[str] = []
    for line in block("tree").splitlines():
        name, _, description = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        paths["".join(folders)] = description.strip()
    return paths


def shell_commands() -> Iterator[list[str]]:
    """Every `spectok` command in the README's shell blocks, as words after `spectok`."""
    for code in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in code.splitlines():
            for part in line.split(" # ")[0].split("|"):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "spectok":
                    yield words[1:]


def test_tree_names_only_what_exists() -> None:
    assert [path for path in tree() if not (ROOT / path).exists()] == []


def test_tree_names_every_file() -> None:
    folders = ("src", "tests", "docs", "configs", "examples", "benchmarks")
    files = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    own = {file for file in files if "__pycache__" not in file and "/assets/" not in file}
    assert sorted(own - set(tree())) == [], "give each a line between README.md's tree:begin and tree:end"


def test_help_is_the_program_s() -> None:
    result = CliRunner().invoke(main, ["--help"], prog_name="spectok", terminal_width=80)
    assert result.exit_code == 0
    assert block("help").split() == result.output.split()  # words, not line breaks: those are click's


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in shell_commands()])
def test_shown_commands_exist(words: list[str]) -> None:
    command = main.get_command(click.Context(main), words[0])
    assert command is not None, f"no command '{words[0]}'"
    if isinstance(command, click.Group):  # `export RUN` has a subcommand that need not be named
        command = command.get_command(click.Context(command), words[1]) or command
    options = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in words[1:] if word.startswith("-") and word != "-" and word not in options]
    assert unknown == []


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
