import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTER = ("gemma_mcp/starter/starter.gguf", "gemma_mcp/starter/mmproj.gguf")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this checkout, built by what a release is built with."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "-t", "wheel", "-t", "sdist")
    return folder


def build(source: Path, folder: Path, *targets: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def wheel_of(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_core_the_backends_and_the_defaults(built: Path) -> None:
    names = names_in(wheel_of(built))
    assert {"gemma_mcp/__main__.py", "gemma_mcp/config/defaults.toml", "gemma_mcp_llamacpp/__init__.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gemma_mcp", "gemma_mcp_llamacpp"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gemma_mcp").rglob("*.py")}
    assert sources <= names


def test_the_wheel_holds_the_starter_model(built: Path) -> None:
    assert set(STARTER) <= names_in(wheel_of(built))
    assert wheel_of(built).stat().st_size <= 13_000_000


def test_the_wheel_works_for_every_platform_and_declares_command_and_backends(built: Path) -> None:
    wheel = wheel_of(built)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(path).decode())
    assert entries["console_scripts"]["gemma-mcp"] == "gemma_mcp.cli.main:main"
    assert entries["gemma_mcp.backends"]["llamacpp"] == "gemma_mcp_llamacpp:LlamaCppBackend"


def test_the_sdist_gives_the_same_wheel_as_the_checkout(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "dist", "-t", "wheel")
    assert names_in(wheel_of(tmp_path / "dist")) == names_in(wheel_of(built))


def test_the_sdist_leaves_out_what_was_built_here(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        parts = {part for name in archive.getnames() for part in name.split("/")}
    assert not {".venv", "node_modules", "__pycache__", ".git", ".ci"} & parts


def test_an_installed_wheel_finds_its_defaults(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        archive.extractall(tmp_path / "site")
    code = "import gemma_mcp; print(gemma_mcp.__file__); from gemma_mcp.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "config"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "GEMMA_MCP_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert Path(lines[0]) == tmp_path / "site" / "gemma_mcp" / "__init__.py"
    assert any(line.split() == ["model.default", '"starter"', "default"] for line in lines)
