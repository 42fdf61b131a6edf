"""A conversation with a model: its session in the store, and one turn at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import anyio

from gemma_mcp.cli.terminal.inputs import Attachments, Inputs
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import ContextOverflowError, InputRefusedError
from gemma_mcp.places import Places
from gemma_mcp.server.replies import Reply, TimeBox, Transcript
from gemma_mcp.server.sessions import Limits, Session, Sessions, SessionStore
from gemma_mcp.settings import Settings
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, ChatMessage, GeneratedTokens, ModelCard, TextPart

__all__ = ["Conversation", "Options", "Watcher"]

FEWEST_TOKENS = 16
"""Below this a reply that has to fit the rest of a context is not worth starting."""


@dataclass(frozen=True)
class Watcher:
    """Who wants to know how a turn goes: `waiting` what it waits for, `text` each new piece of the answer."""

    waiting: Callable[[str], None]
    text: Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the user chose; None leaves it to the session, and then to the configuration."""

    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


class Conversation:
    """The session that is being talked in. Each turn is a loop of its own, so Ctrl-C ends the turn and nothing else.

    `attached` goes with the next turn.
    """

    def __init__(self, settings: Settings, places: Places, options: Options) -> None:
        self.store = SessionStore(places.sessions, Limits.of(settings.sessions))
        self.inputs = Inputs.configured(settings.server)
        self.attached = Attachments()
        self.options = options
        self.session: Session | None = None
        self._settings = settings
        self._places = places

    @property
    def model(self) -> str:
        """The model of the next turn."""
        asked = self.options.model or (self.session.model if self.session else None)
        return asked or self._settings.model.default

    @property
    def system(self) -> str | None:
        """The system instruction of the next turn; None when there is none."""
        chosen = self.options.system
        return (self.session.system if self.session else None) if chosen is None else chosen or None

    def new(self) -> None:
        """Begin another conversation, with the same model and system instruction."""
        self.options = replace(self.options, model=self.options.model or self.model, system=self.system)
        self.session = None

    def resume(self, name: str) -> Session:
        """Go on in a session of the store. Raises UnknownSessionError and SessionStoreError."""
        self.session = self.store.load(name)
        return self.session

    def fork(self) -> Session | None:
        """Go on in a copy, and leave the session as it is; None when nothing was said yet."""
        if self.session is not None:
            self.session = self.session.fork()
        return self.session

    def models(self) -> list[ModelCard]:
        """The models that can be asked for."""

        async def ask() -> list[ModelCard]:
            async with EnginePool(self._settings, self._places) as pool:
                return await pool.models()

        return anyio.run(ask)

    def attach(self, attached: Attachments) -> None:
        """Add to what goes with the next turn. Raises InputRefusedError."""
        anyio.run(self.inputs.check, attached)
        both = (self.attached, attached)
        self.attached = Attachments(
            tuple(name for one in both for name in one.files), tuple(name for one in both for name in one.images)
        )

    def say(self, text: str, watcher: Watcher) -> Reply | None:
        """Take a turn. None when Ctrl-C ended it; then the text so far, if there is any, is kept as the answer."""
        turn = _Turn(self._settings, self._places, self, watcher)
        try:
            reply = anyio.run(turn.take, text)
        except KeyboardInterrupt:
            turn.keep_what_is_there()
            return None
        self.attached = Attachments()
        return reply


class _Turn:
    """One turn of a conversation."""

    def __init__(self, settings: Settings, places: Places, conversation: Conversation, watcher: Watcher) -> None:
        self._settings = settings
        self._places = places
        self._conversation = conversation
        self._watcher = watcher
        self._transcript = Transcript(conversation.model, TimeBox(math.inf))  # a person ends it with Ctrl-C
        self._session = conversation.session
        self._message: ChatMessage | None = None

    async def take(self, text: str) -> Reply:
        """Ask, show, keep. Whoever shares the session waits, and we see what they said."""
        box = TimeBox(self._settings.server.max_seconds)
        if self._session is None or not self._session.kept:
            return await self._ask(text)
        async with Sessions(self._conversation.store).turn(self._session.name, box) as turn:
            self._session = turn.session
            return await self._ask(text)

    def keep_what_is_there(self) -> None:
        """After an interruption: what the user has seen is part of the conversation, as far as it came."""
        if self._transcript.text:
            self._keep(self._transcript.text, self._conversation.model, None)
            self._conversation.attached = Attachments()

    async def _ask(self, text: str) -> Reply:
        said = self._session.messages if self._session else ()
        self._message, notes = await self._conversation.inputs.message(text, self._conversation.attached, said)
        self._refuse_size((*said, self._message))
        system = self._conversation.system
        opening = (ChatMessage(role="system", content=system),) if system else ()
        reply = await self._reply((*opening, *said, self._message))
        tokens = GeneratedTokens(ids=reply.tokens, vocabulary=reply.card.vocabulary) if reply.tokens else None
        self._keep(reply.text, reply.card.model, tokens)
        return replace(reply, notes=(*notes, *reply.notes))

    async def _reply(self, messages: tuple[ChatMessage, ...]) -> Reply:
        """With a max_tokens that nobody asked for, a reply that has to be shorter is better than a refusal."""
        options = self._conversation.options
        request = ChatCompletionRequest(
            model=self._conversation.model,
            messages=messages,
            max_tokens=options.max_tokens or self._settings.server.max_tokens,
            temperature=options.temperature,
            return_tokens=True,
        )
        async with EnginePool(self._settings, self._places) as pool:
            try:
                return await self._stream(pool, request)
            except ContextOverflowError as error:
                room = error.context_length - error.prompt_tokens
                if options.max_tokens is not None or not FEWEST_TOKENS <= room < (request.max_tokens or 0):
                    raise
            reply = await self._stream(pool, request.model_copy(update={"max_tokens": room}))
            return replace(reply, notes=(f"the context has room for {room} tokens of reply",))

    async def _stream(self, pool: EnginePool, request: ChatCompletionRequest) -> Reply:
        started = TimeBox(self._settings.server.max_seconds)
        self._watcher.waiting(self._transcript.waiting)
        async with pool.chat(request) as chunks:
            async for chunk in chunks:
                self._transcript.take(chunk)
                self._show(chunk)
        return self._transcript.reply(started)

    def _show(self, chunk: ChatCompletion) -> None:
        text = "".join(choice.delta.content or "" for choice in chunk.choices if choice.delta)
        if text:
            self._watcher.text(text)
        elif not self._transcript.text:
            self._watcher.waiting(self._transcript.waiting)

    def _keep(self, text: str, answered_by: str, tokens: GeneratedTokens | None) -> None:
        assert self._message is not None
        conversation = self._conversation
        answer = ChatMessage(role="assistant", content=text, tokens=tokens)
        conversation.session = conversation.store.append(
            self._session or conversation.store.new(),
            (self._message, answer),
            system=conversation.system,
            model=conversation.options.model or (self._session.model if self._session else None),
            answered_by=answered_by,
        )

    def _refuse_size(self, messages: tuple[ChatMessage, ...]) -> None:
        limit = self._settings.server.max_prompt_bytes
        size = sum(len(text.encode("utf-8", "replace")) for message in messages for text in _texts(message))
        if size > limit:
            why = f"it has {size:,} bytes with everything in it, more than the {limit:,} that are allowed"
            raise InputRefusedError("prompt", why, "Send less, or raise server.max_prompt_bytes.")


def _texts(message: ChatMessage) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, TextPart)]
