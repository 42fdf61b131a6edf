"""The tool `chat`: a conversation of several turns, kept under the name of its session."""

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from gemma_mcp.errors import RequestError
from gemma_mcp.server.arguments import (
    NOT_BLANK,
    Arguments,
    FileList,
    ImageList,
    MaxSeconds,
    MaxTokens,
    ModelName,
)
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.inputs.files import TextFiles
from gemma_mcp.server.inputs.images import Images
from gemma_mcp.server.results import result_of
from gemma_mcp.server.sessions import Session, Sessions
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.server.turn_messages import answer_message, refuse_images, user_message
from gemma_mcp.wire import ChatMessage

__all__ = ["chat_tool"]

DESCRIPTION = """\
Talk with a Gemma model on the user's own machine over several turns; it remembers what was said, read and shown.

Use it when questions build on one another: read files or images once, then ask about them again and again (only new \
text is computed), or refine a draft step by step.

Do not use it for a single question (generate_text and analyze_image need no session), and do not repeat earlier turns \
in `message`: the session holds them.

Leave `session` out to start one; the last line of the result names it (session s-…), pass that name to go on. \
Sessions are kept when this server ends, and other servers of this user know them too. To try another way from the \
same point, pass `fork`. A turn that fails or is cancelled leaves its session as it was."""


class ChatArguments(Arguments):
    """Arguments of `chat`."""

    message: Annotated[str, Field(pattern=NOT_BLANK, description="What to say in this turn.")]
    session: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="Session to go on with, named by an earlier result."),
    ] = None
    fork: Annotated[
        bool, Field(description="Go on from `session` in a new session, which the result names; the old one stays.")
    ] = False
    system: Annotated[
        str | None,
        Field(
            pattern=NOT_BLANK,
            description="System instruction of the session; a later one replaces it.",
        ),
    ] = None
    files: FileList = None
    images: Annotated[
        ImageList | None,
        Field(description="Images of this turn: paths or patterns in the project folder, data URIs or base64."),
    ] = None
    model: ModelName = None
    max_tokens: MaxTokens = None
    max_seconds: MaxSeconds = None


class Chat:
    """Takes turns."""

    def __init__(self, caller: Caller, files: TextFiles, images: Images, sessions: Sessions) -> None:
        self._caller = caller
        self._files = files
        self._images = images
        self._sessions = sessions

    async def take_turn(self, context: Context, given: ChatArguments) -> CallToolResult:
        """One turn; the session is changed only after the reply is complete."""
        if given.fork and given.session is None:
            raise RequestError("`fork` needs the `session` that is to be forked.", "Name it, or leave `fork` out.")
        box = self._caller.box(given.max_seconds)
        async with self._sessions.turn(given.session, box, fork=given.fork) as turn:
            session = turn.session
            message, notes, read = await box.within(
                self._message(given, session), "The files and images were not read yet"
            )
            system = given.system or session.system
            model = given.model or session.model
            options = Options(box=box, model=model, max_tokens=given.max_tokens, return_tokens=True)
            opening = (ChatMessage(role="system", content=system),) if system else ()
            reply = await self._caller.chat(context, (*opening, *session.messages, message), options)
            await turn.keep(message, answer_message(reply), system=system, model=model, answered_by=reply.card.model)
        origin = (f"forked from {given.session}",) if given.fork else ()
        return result_of(reply, notes=(*origin, *notes), session=session.name, read=read)

    async def _message(
        self, given: ChatArguments, session: Session
    ) -> tuple[ChatMessage, tuple[str, ...], tuple[str, ...]]:
        """The turn, what was cut on its way in, and the texts of its files."""
        files = await self._files.read(given.files or [])
        images = await self._images.read(given.images or [], "auto")
        refuse_images(len(images), session.messages, self._images.limits.images, "Start a new session.")
        notes = tuple(note for note in (*(file.note for file in files), *(image.note for image in images)) if note)
        read = tuple(file.text for file in files)
        return user_message(files, images, given.message), notes, read


def chat_tool(caller: Caller, files: TextFiles, images: Images, sessions: Sessions) -> GemmaTool:
    """The tool."""
    chat = Chat(caller, files, images, sessions)
    return GemmaTool.make("chat", "Chat", DESCRIPTION, ChatArguments, chat.take_turn, max_result=200_000)
