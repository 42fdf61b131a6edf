"""A conversation with a model: its session in the store, and one turn at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import anyio

from gemma_mcp.cli.terminal.inputs import Attachments, Inputs
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import Places
from gemma_mcp.server.replies import Reply, TimeBox, Transcript, with_room
from gemma_mcp.server.sessions import Limits, Session, Sessions, SessionStore
from gemma_mcp.server.turn_messages import answer_message, refuse_size, size_of
from gemma_mcp.settings import Settings
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, ChatMessage, ModelCard

__all__ = ["Conversation", "Options", "Watcher"]


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
            self._keep(ChatMessage(role="assistant", content=self._transcript.text), self._conversation.model)
            self._conversation.attached = Attachments()

    async def _ask(self, text: str) -> Reply:
        said = self._session.messages if self._session else ()
        self._message, notes = await self._conversation.inputs.message(text, self._conversation.attached, said)
        refuse_size(sum(map(size_of, (*said, self._message))), self._settings.server.max_prompt_bytes)
        system = self._conversation.system
        opening = (ChatMessage(role="system", content=system),) if system else ()
        reply = await self._reply((*opening, *said, self._message))
        self._keep(answer_message(reply), reply.card.model)
        return replace(reply, notes=(*notes, *reply.notes))

    async def _reply(self, messages: tuple[ChatMessage, ...]) -> Reply:
        options = self._conversation.options
        request = ChatCompletionRequest(
            model=self._conversation.model,
            messages=messages,
            max_tokens=options.max_tokens or self._settings.server.max_tokens,
            temperature=options.temperature,
            return_tokens=True,
        )
        async with EnginePool(self._settings, self._places) as pool:
            return await with_room(partial(self._stream, pool), request, chosen=options.max_tokens is not None)

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

    def _keep(self, answer: ChatMessage, answered_by: str) -> None:
        assert self._message is not None
        conversation = self._conversation
        conversation.session = conversation.store.append(
            self._session or conversation.store.new(),
            (self._message, answer),
            system=conversation.system,
            model=conversation.options.model or (self._session.model if self._session else None),
            answered_by=answered_by,
        )
