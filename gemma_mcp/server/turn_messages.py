"""Turns of a conversation as the wire's messages: what a user gave, what a model answered, and what is too much.

The tools use it, and the chat in the terminal; nothing of the protocol is imported here.
"""

from collections.abc import Iterable, Sequence

from gemma_mcp.errors import InputRefusedError, RequestError
from gemma_mcp.server.arguments import Detail
from gemma_mcp.server.inputs.files import TextFile, compose
from gemma_mcp.server.inputs.images import PreparedImage
from gemma_mcp.server.replies import Reply
from gemma_mcp.wire import ChatMessage, GeneratedTokens, ImagePart, ImageUrl, TextPart

__all__ = ["answer_message", "image_parts", "refuse_images", "refuse_size", "size_of", "user_message"]


def user_message(files: Sequence[TextFile], images: Sequence[PreparedImage], text: str) -> ChatMessage:
    """What a user says, with the files before it and the images before all."""
    whole = compose(files, text)
    if not images:
        return ChatMessage(role="user", content=whole)
    return ChatMessage(role="user", content=(*image_parts(images, "auto"), TextPart(text=whole)))


def image_parts(images: Sequence[PreparedImage], detail: Detail) -> list[ImagePart]:
    """The images as parts of a message."""
    return [ImagePart(image_url=ImageUrl(url=image.url, detail=detail)) for image in images]


def answer_message(reply: Reply) -> ChatMessage:
    """A model's reply, with its token ids, so that the next turn finds all of it in the engine's prefix cache."""
    tokens = GeneratedTokens(ids=reply.tokens, vocabulary=reply.card.vocabulary) if reply.tokens else None
    return ChatMessage(role="assistant", content=reply.text, tokens=tokens)


def refuse_images(new: int, before: Iterable[ChatMessage], limit: int, hint: str) -> None:
    """The limit of one request holds for what a conversation sends along, too. Raises RequestError."""
    old = sum(isinstance(part, ImagePart) for message in before for part in message.content)
    if new and old + new > limit:
        raise RequestError(
            f"The conversation holds {old} images already; with {new} more it would pass the limit of {limit}.", hint
        )


def refuse_size(size: int, limit: int) -> None:
    """Raises InputRefusedError for a prompt of so many bytes."""
    if size > limit:
        why = f"it has {size:,} bytes with everything in it, more than the {limit:,} that are allowed"
        raise InputRefusedError("prompt", why, "Send less, or raise server.max_prompt_bytes.")


def size_of(content: ChatMessage | str) -> int:
    """Bytes of text; images are bounded on their own."""
    if isinstance(content, str):
        return len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
    if isinstance(content.content, str):
        return size_of(content.content)
    return sum(size_of(part.text) for part in content.content if isinstance(part, TextPart))
