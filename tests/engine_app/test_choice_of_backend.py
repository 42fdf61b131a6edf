"""Which backends there are, and which one loads a model."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.probe import probe_devices
from gemma_mcp.engine.registry import GROUP, Registry
from gemma_mcp.engine.selector import choose
from gemma_mcp.errors import BackendError, BackendMissingError, ConfigError, UnsupportedError
from gemma_mcp.settings import Settings
from gemma_mcp.testing.echo import EchoBackend
from gemma_mcp.testing.engines import EngineHome

ECHO = ModelSpec(name="echo", format="echo", path="")
GGUF = ModelSpec(name="real", format="gguf", path="/real.gguf")


class NotInstalled(EchoBackend):
    """A backend whose runtime is absent."""

    name = "absent"

    def missing(self) -> str | None:
        return "pip install absent"


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


ECHOES = entry("echo", "gemma_mcp.testing.echo:EchoBackend")
ABSENT = entry("absent", "test_choice_of_backend:NotInstalled")
BROKEN = entry("broken", "gemma_mcp.no_such_module:Backend")


def settings(tmp_path: Path, **values: str) -> Settings:
    return EngineHome(tmp_path, {f"GEMMA_MCP_{key.upper()}": text for key, text in values.items()}).settings


def test_the_installed_backends_are_found() -> None:
    registry = Registry.installed()
    assert {"echo", "llamacpp"} <= set(registry.names())
    assert registry.backend("llamacpp").formats == ("gguf",)
    assert registry.backend("llamacpp") is registry.backend("llamacpp")


def test_an_unknown_backend_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no backend 'cuda'.*Installed backends: absent, echo"):
        Registry([ECHOES, ABSENT]).backend("cuda")


def test_a_missing_runtime_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(BackendMissingError, match="Install it with: pip install absent"):
        choose(ECHO, settings(tmp_path), Registry([ABSENT]))


def test_a_backend_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"'broken'.*no_such_module") as caught:
        choose(ECHO, settings(tmp_path), Registry([BROKEN]))
    assert isinstance(caught.value.__cause__, ImportError)


def test_what_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    choices = choose(ECHO, settings(tmp_path), Registry([BROKEN, ABSENT, ECHOES]))
    assert [(choice.backend, choice.reason) for choice in choices] == [("echo", "reads 'echo'")]


def test_a_format_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"reads the format 'gguf'.*Installed backends: echo"):
        choose(GGUF, settings(tmp_path), Registry([ECHOES]))


def test_the_backend_of_the_settings_is_the_only_choice(tmp_path: Path) -> None:
    registry = Registry([ECHOES, ABSENT])
    named = choose(ECHO, settings(tmp_path, backend_name="echo"), registry)
    assert [(choice.backend, choice.reason) for choice in named] == [("echo", "named in the settings")]
    with pytest.raises(BackendMissingError):
        choose(ECHO, settings(tmp_path, backend_name="absent"), registry)
    with pytest.raises(UnsupportedError, match=r"'echo' reads echo.*backend.name"):
        choose(GGUF, settings(tmp_path, backend_name="echo"), registry)
    with pytest.raises(ConfigError, match="no backend 'none'"):
        choose(ECHO, settings(tmp_path, backend_name="none"), registry)


def test_the_settings_become_load_options(tmp_path: Path) -> None:
    chosen = settings(tmp_path, llamacpp_context="512", llamacpp_slots="3", backend_device="CPU")
    options = choose(ECHO, chosen, Registry([ECHOES]))[0].options
    assert (options.context_length, options.slots, options.device) == (512, 3, "CPU")


async def test_devices_are_asked_in_a_process_of_their_own() -> None:
    assert await probe_devices("echo") == ("CPU",)


async def test_a_backend_that_cannot_list_its_devices_says_why() -> None:
    with pytest.raises(BackendError, match="no backend 'none'"):
        await probe_devices("none")


async def test_a_backend_that_hangs_is_given_up() -> None:
    with pytest.raises(BackendError, match=r"within 0\.001 seconds"):
        await probe_devices("echo", timeout=0.001)
