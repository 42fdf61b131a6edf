"""`completion/complete`, asked through a client."""

from pathlib import Path

import pytest
from mcp import Client
from mcp.types import CompleteResult, CompletionArgument, PromptReference, ResourceTemplateReference
from scripted_engine import Connect

from gemma_mcp.places import Places
from gemma_mcp.server.completion import Completions, one_of

ERAS = ["auto", "legacy"]


async def complete(client: Client, prompt: str, argument: str, typed: str) -> CompleteResult:
    return await client.complete(PromptReference(name=prompt), {"name": argument, "value": typed})


async def values(client: Client, prompt: str, argument: str, typed: str) -> list[str]:
    return (await complete(client, prompt, argument, typed)).completion.values


@pytest.fixture
def models(places: Places) -> None:
    places.models.mkdir(parents=True)
    for name in ("gemma-3-4b", "gemma-3-12b", "Other", "mmproj-gemma"):
        (places.models / f"{name}.gguf").touch()


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("era", ERAS)
async def test_names_of_models_are_completed(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        assert await values(client, "commit_message", "model", "") == ["starter", "gemma-3-12b", "gemma-3-4b", "Other"]
        assert await values(client, "explain_log", "model", "Gemma-3-1") == ["gemma-3-12b"]
        assert await values(client, "explain_log", "model", "nothing") == []


async def test_at_most_100_values_come_with_the_number_of_all(connect: Connect, places: Places) -> None:
    places.models.mkdir(parents=True)
    for number in range(120):
        (places.models / f"model-{number:03}.gguf").touch()
    async with connect() as client:
        many = (await complete(client, "review_diff", "model", "model-")).completion
        few = (await complete(client, "review_diff", "model", "model-00")).completion
    assert (len(many.values), many.total, many.has_more) == (100, 120, True)
    assert many.values[0] == "model-000"
    assert (len(few.values), few.total, few.has_more) == (10, 10, False)


async def test_paths_in_the_project_are_completed_the_last_of_several(connect: Connect, project: Path) -> None:
    (project / "src").mkdir()
    for name in ("src/app.py", "src/api.py", "setup.py", ".hidden"):
        (project / name).touch()
    (project.parent / "secret.txt").touch()
    (project / "link").symlink_to(project.parent)
    async with connect() as client:
        assert await values(client, "summarise_files", "paths", "") == ["setup.py", "src/"]
        assert await values(client, "summarise_files", "paths", "src/a") == ["src/api.py", "src/app.py"]
        assert await values(client, "summarise_files", "paths", "setup.py,src/ap") == [
            "setup.py,src/api.py",
            "setup.py,src/app.py",
        ]
        assert await values(client, "explain_log", "path", ".h") == [".hidden"]
        for outside in ("../", "../s", "/", "/et", "link/", str(project.parent) + "/", "src/../../", "\0", "x/\0"):
            assert await values(client, "describe_image", "images", outside) == []


async def test_changes_of_a_review_are_completed(connect: Connect) -> None:
    async with connect() as client:
        assert await values(client, "review_diff", "changes", "un") == ["unstaged"]


@pytest.mark.parametrize("era", ERAS)
async def test_what_can_be_anything_has_no_values(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        done = await complete(client, "commit_message", "style", "con")
        assert (done.completion.values, done.completion.total, done.completion.has_more) == ([], 0, False)


async def test_a_source_can_be_added_for_a_variable_of_an_address() -> None:
    completions = Completions({})
    completions.add("id", one_of("s-1", "s-2", "t-1"))
    reference = ResourceTemplateReference(uri="gemma://sessions/{id}")
    done = await completions.complete(reference, CompletionArgument(name="id", value="s-"), None)
    assert (done.values, done.total, done.has_more) == (["s-1", "s-2"], 2, False)
