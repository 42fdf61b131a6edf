"""What nobody planned for: bugs, broken files, files that change."""

from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp

from gemma_mcp.engine.activity import Activity
from gemma_mcp.engine.answers import GenerationResponse
from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.logs import worker_log_path
from gemma_mcp.engine.replies import Reply, Shape
from gemma_mcp.engine.specs import Specs
from gemma_mcp.errors import UnknownModelError
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.types import Delta
from gemma_mcp.wire import CompletionRequest, ModelCard

STARTER = Path(__file__).parents[2] / "gemma_mcp" / "starter" / "starter.gguf"


async def post(app: ASGIApp) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://engine") as http:
        return await http.post("/")


@pytest.mark.parametrize("begun", [False, True])
async def test_a_bug_is_logged_and_told_without_its_text(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def work(reply: Reply) -> None:
        if begun:
            await reply.started(ModelCard(model="echo"))
            await reply.event(Delta("text", 1), 0)
        raise ZeroDivisionError("private words")

    options = CompletionRequest(model="echo", prompt="x", stream=begun)
    shape = Shape("text", "echo", stream=begun)
    response = await post(GenerationResponse(work, shape, options, None, Activity()))
    assert response.status_code == (200 if begun else 500)
    assert "The engine failed at this request." in response.text
    assert "private words" not in response.text
    assert "private words" in caplog.text


async def test_a_broken_file_is_listed_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    home = EngineHome(tmp_path)
    home.places.models.mkdir(parents=True)
    (home.places.models / "broken.gguf").write_bytes(b"GGUF\x03\x00")
    cards = await Specs(home.settings, home.places).cards()
    broken = next(card for card in cards if card.model == "broken")
    assert "could not be loaded" in broken.notice


async def test_a_model_that_is_taken_away_is_unknown_from_then_on(tmp_path: Path) -> None:
    home = EngineHome(tmp_path)
    specs = Specs(home.settings, home.places)
    assert await specs.find("echo") == ModelSpec(name="echo", format="echo", path="")
    if not STARTER.exists():
        pytest.skip("the starter model is not built yet")
    home.places.models.mkdir(parents=True)
    copy = home.places.models / "mine.gguf"
    copy.write_bytes(STARTER.read_bytes())
    found = await specs.find("mine")
    assert await specs.find("mine") is found
    copy.unlink()
    with pytest.raises(UnknownModelError):
        await specs.find("mine")


@pytest.mark.parametrize(
    ("model", "name"),
    [("echo", "worker-echo.log"), ("/models/a b.gguf", "worker-a_b.log"), ("..", "worker-model.log")],
)
def test_a_worker_s_log_has_a_harmless_name(tmp_path: Path, model: str, name: str) -> None:
    home = EngineHome(tmp_path)
    assert worker_log_path(home.places, model) == home.places.logs / name
