"""The resource template `gemma://sessions/{id}`: a session's transcript as Markdown."""

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from gemma_mcp.errors import GemmaError, UnknownSessionError
from gemma_mcp.server.sessions import Sessions

__all__ = ["SESSION_URI", "add_session_resource"]

SESSION_URI = "gemma://sessions/{id}"


def add_session_resource(server: MCPServer, sessions: Sessions) -> None:
    """Offer it on this server."""

    async def session_transcript(id: str) -> str:
        try:
            return await sessions.transcript(id)
        except UnknownSessionError as error:
            raise ResourceNotFoundError(error.message) from error
        except GemmaError as error:
            raise ResourceError(str(error)) from error

    server.resource(
        SESSION_URI,
        name="session",
        title="Transcript of a chat session",
        description="What was said in a session of the tool `chat`, as Markdown.",
        mime_type="text/markdown",
    )(session_transcript)
