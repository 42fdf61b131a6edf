"""The resources `gemma://status` and `gemma://models`, read through a client."""

from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, TextResourceContents
from scripted_engine import Connect, ScriptedEngines, settings

from gemma_mcp import __version__
from gemma_mcp.errors import RemoteError
from gemma_mcp.places import Places
from gemma_mcp.server.app import build_server
from gemma_mcp.server.savings import Figures, SavingsStore, savings_path
from gemma_mcp.settings_sources import load_settings
from gemma_mcp.state import EngineStatus, LoadedStatus
from gemma_mcp.wire import WIRE_VERSION

ERAS = ["auto", "legacy"]
STARTER_FOLDER = Path(__file__).parents[2] / "gemma_mcp" / "starter"


def running(*models: LoadedStatus, **changes: object) -> EngineStatus:
    about = {
        "pid": 77,
        "port": 2,
        "version": __version__,
        "wire_version": WIRE_VERSION,
        "fingerprint": "",
        "started": 0.0,
    }
    return EngineStatus(**(about | changes), models=models)  # pyright: ignore[reportArgumentType]


async def read(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "text/markdown"
    return content.text


def rows(document: str) -> dict[str, list[str]]:
    """The cells of all tables by the first of their row."""
    lines = [line.strip("|").split(" | ") for line in document.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.mark.parametrize("era", ERAS)
async def test_both_resources_are_listed_with_what_they_hold(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        listed = (await client.list_resources()).resources
        assert [str(one.uri) for one in listed] == ["gemma://status", "gemma://models"]
        for one in listed:
            assert one.description
            assert (await read(client, str(one.uri))).startswith("# ")


async def test_without_an_engine_the_status_says_what_starts_it(connect: Connect) -> None:
    async with connect() as client:
        status = await read(client, "gemma://status")
    assert status.startswith(f"# gemma-mcp {__version__}\n")
    assert "Not running; the first call of a tool starts it." in status


async def test_models_in_memory_are_told_with_device_and_requests(connect: Connect, engines: ScriptedEngines) -> None:
    engines.status = running(
        LoadedStatus(model="gemma-4b", runtime="llama.cpp", device="CUDA0", running=2, waiting=3),
        LoadedStatus(model="gemma-12b", loading=0.25),
    )
    async with connect() as client:
        status = await read(client, "gemma://status")
    assert "pid 77" in status
    assert "2 requests running, 3 waiting" in status
    assert rows(status)["gemma-4b"] == ["ready", "CUDA0", "llama.cpp", "2", "3"]
    assert rows(status)["gemma-12b"][0] == "loading, 25%"


async def test_settings_are_told_with_their_origin(engines: ScriptedEngines, project: Path, places: Places) -> None:
    places.config_file.parent.mkdir()
    places.config_file.write_text("[llamacpp]\nslots = 2\n", encoding="utf-8")
    loaded = load_settings({"GEMMA_MCP_ENGINE_KEEP_ALIVE": "60"}, places=places)
    server = build_server(engines, loaded.settings, project, places, origins=loaded.origins)
    async with Client(server) as client:
        told = rows(await read(client, "gemma://status"))
    assert told["llamacpp.slots"] == ["2", f"{places.config_file}:2"]
    assert told["engine.keep_alive"] == ["60.0", "GEMMA_MCP_ENGINE_KEEP_ALIVE"]
    assert told["model.default"] == ['"starter"', "default"]
    assert told["server.root"] == [f'"" ({project})', "default"]
    assert "engine.idle_exit" not in told


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (
            running(same_settings=False),
            "other settings or by another Python than this server's. Run `gemma-mcp engine stop`",
        ),
        (running(wire_version=WIRE_VERSION + 1, version="9.9"), "another release (9.9). Run `gemma-mcp engine stop`"),
    ],
)
async def test_an_engine_that_is_not_the_right_one_is_a_problem_with_a_remedy(
    connect: Connect, engines: ScriptedEngines, engine: EngineStatus, problem: str
) -> None:
    engines.status = engine
    async with connect() as client:
        assert problem in await read(client, "gemma://status")


async def test_an_engine_that_cannot_be_asked_is_a_problem_and_no_error(
    connect: Connect, engines: ScriptedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RemoteError("The engine ended before it answered.", "Try again.")

    monkeypatch.setattr(engines, "running", fail)
    async with connect() as client:
        assert "- The engine ended before it answered. Try again." in await read(client, "gemma://status")
        assert "starter (usual)" in await read(client, "gemma://models")


async def test_the_starter_and_a_missing_model_are_problems(
    engines: ScriptedEngines, project: Path, places: Places
) -> None:
    for name, problem in (("starter", "a toy"), ("/nowhere/gemma.gguf", "Set model.default to a model that is here")):
        loaded = load_settings({"GEMMA_MCP_MODEL_DEFAULT": name}, places=places)
        async with Client(build_server(engines, loaded.settings, project, places)) as client:
            assert problem in (await read(client, "gemma://status")).rpartition("## Problems")[2]


async def test_nothing_wrong_is_said_to_be_nothing(engines: ScriptedEngines, project: Path, places: Places) -> None:
    loaded = load_settings({"GEMMA_MCP_MODEL_DEFAULT": "echo"}, places=places)
    async with Client(build_server(engines, loaded.settings, project, places)) as client:
        assert (await read(client, "gemma://status")).endswith("## Problems\n\nNone.\n")


@pytest.mark.parametrize("era", ERAS)
async def test_the_status_shows_what_this_session_and_all_sessions_saved(
    connect: Connect, engines: ScriptedEngines, project: Path, places: Places, era: str
) -> None:
    engines.status = running(LoadedStatus(model="scripted"))
    (project / "a.txt").write_text("a" * 90_000, encoding="utf-8")
    before = Figures(sessions=1, calls=3, file_tokens=1000, result_tokens=10, schema_tokens=20)
    SavingsStore(savings_path(places)).add(before, "2026-01-01")
    async with connect(era) as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": ["a.txt"]})
        status = await read(client, "gemma://status")
    told = rows(status)
    mine = SavingsStore(savings_path(places)).days()[1][1]
    assert told["text of files, read here"] == ["90,000", "91,000"]
    assert told["calls"] == ["1", "4"]
    assert told["**saved**"] == [f"**{mine.saved:,}**", f"**{mine.saved + before.saved:,}**"]
    assert "An estimate" in status


async def test_a_damaged_file_of_savings_is_a_problem_and_the_session_is_still_counted(
    connect: Connect, engines: ScriptedEngines, places: Places
) -> None:
    engines.status = running(LoadedStatus(model="scripted"))
    path = savings_path(places)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 500)
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
        status = await read(client, "gemma://status")
    assert not result.is_error
    assert rows(status)["calls"] == ["1"]
    assert status.count("gemma-mcp stats --reset") == 1


async def test_models_are_told_without_an_engine_broken_ones_too(connect: Connect, places: Places) -> None:
    places.models.mkdir(parents=True)
    for name in ("starter.gguf", "mmproj.gguf"):
        (places.models / name.replace("starter", "My Model")).symlink_to(STARTER_FOLDER / name)
    (places.models / "broken|one.gguf").write_bytes(b"GGUF")
    async with connect() as client:
        models = await read(client, "gemma://models")
    told = rows(models.replace("\\|", "!"))
    assert told["starter (usual)"] == ["on disk", "gguf", "9 MB", "2,048", "yes", "yes"]
    assert told["My Model"] == told["starter (usual)"]
    assert told["broken!one"][0] == "cannot be loaded"
    assert "- broken" in models


async def test_models_in_memory_are_told_as_they_run(connect: Connect, engines: ScriptedEngines) -> None:
    engines.status = running(
        LoadedStatus(model="starter", device="CPU", context_length=1024, images=False, fim=False),
        LoadedStatus(model="by-its-path", device="CPU", context_length=512, size_bytes=3_000_000_000, images=True),
    )
    async with connect() as client:
        told = rows(await read(client, "gemma://models"))
    assert told["starter (usual)"] == ["in memory, CPU", "gguf", "9 MB", "1,024", "no", "no"]
    assert told["by-its-path"] == ["in memory, CPU", "", "3.0 GB", "512", "yes", "no"]


async def test_a_model_that_changes_is_read_again(connect: Connect, places: Places) -> None:
    places.models.mkdir(parents=True)
    model = places.models / "mine.gguf"
    model.write_bytes(b"GGUF")
    async with connect() as client:
        assert rows(await read(client, "gemma://models"))["mine"][0] == "cannot be loaded"
        model.write_bytes((STARTER_FOLDER / "starter.gguf").read_bytes())
        assert rows(await read(client, "gemma://models"))["mine"][0] == "on disk"
        model.unlink()
        assert "mine" not in rows(await read(client, "gemma://models"))


@pytest.mark.parametrize("era", ERAS)
async def test_a_resource_that_does_not_exist_is_refused(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        with pytest.raises(MCPError, match="gemma://nothing") as refused:
            await client.read_resource("gemma://nothing")
    assert refused.value.error.code == INVALID_PARAMS


async def test_the_context_is_that_of_the_settings_where_they_allow_less(
    engines: ScriptedEngines, project: Path, places: Places
) -> None:
    changed = settings().model_copy(update={"llamacpp": settings().llamacpp.model_copy(update={"context": 600})})
    async with Client(build_server(engines, changed, project, places)) as client:
        assert rows(await read(client, "gemma://models"))["starter (usual)"][3] == "600"
