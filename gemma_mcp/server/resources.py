"""The resources that do not depend on what somebody asks for: `gemma://status` and `gemma://models`."""

from collections.abc import Awaitable, Callable

from mcp.server.mcpserver.exceptions import ResourceError
from mcp.server.mcpserver.resources import FunctionResource, Resource
from mcp.types import Annotations

from gemma_mcp.errors import GemmaError
from gemma_mcp.server.model_list import ModelList
from gemma_mcp.server.status import Status

__all__ = ["resources_of"]

Document = Callable[[], Awaitable[str]]

MARKDOWN = "text/markdown"
"""Clients attach a resource as text to what the user writes; people and models both read Markdown."""


def resources_of(status: Status, models: ModelList) -> list[Resource]:
    """The resources."""
    return [
        _resource(
            "gemma://status",
            "status",
            "Status of Gemma",
            "What runs, which models are in memory, the settings that matter and where they come from, tokens kept out "
            "of the client's context, and problems with what to do about them.",
            status.document,
        ),
        _resource(
            "gemma://models",
            "models",
            "Gemma models",
            "The models that a call may name: size, context, whether they see images and fill in code, and which are "
            "in memory.",
            models.document,
        ),
    ]


def _resource(uri: str, name: str, title: str, description: str, document: Document) -> Resource:
    async def read() -> str:
        try:
            return await document()
        except GemmaError as error:
            raise ResourceError(str(error)) from error

    return FunctionResource.from_function(
        read,
        uri,
        name=name,
        title=title,
        description=description,
        mime_type=MARKDOWN,
        annotations=Annotations(audience=["user", "assistant"]),
    )
