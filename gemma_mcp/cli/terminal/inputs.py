"""What goes into a turn beside the words: files and images, read as the server's tools read theirs.

One thing differs: whoever types a path here is the files' owner and no model, so it may lead out of the project folder.
Names of secrets are refused all the same, since a path may come out of a pattern.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_mcp.server.inputs.files import TextFile, TextFiles
from gemma_mcp.server.inputs.images import ImageLimits, Images
from gemma_mcp.server.inputs.paths import PathPolicy, project_root
from gemma_mcp.server.turn_messages import refuse_images, user_message
from gemma_mcp.settings import ServerSettings
from gemma_mcp.wire import ChatMessage

__all__ = ["Attachments", "Inputs"]


@dataclass(frozen=True)
class Attachments:
    """Files and images as the user named them, and a text that came through a pipe; they belong to the next turn."""

    files: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    piped: str = ""


@dataclass(frozen=True)
class Inputs:
    """Reads attachments."""

    files: TextFiles
    images: Images

    @classmethod
    def configured(cls, settings: ServerSettings) -> "Inputs":
        """Relative paths count from the folder that the server would read from, if it were started here."""
        root = project_root(settings.root, os.environ, Path.cwd())
        policy = PathPolicy.configured(settings, root)
        policy = replace(policy, further=(*policy.further, Path(root.absolute().anchor)))
        limits = ImageLimits(settings.max_images, settings.max_image_bytes, settings.max_image_pixels)
        files = TextFiles(policy, settings.max_file_bytes, settings.max_files, settings.max_prompt_bytes)
        return cls(files, Images(policy, limits))

    async def check(self, attached: Attachments) -> None:
        """Read everything once, to refuse it when it is named and not a turn later. Raises InputRefusedError."""
        await self.files.read(_expanded(attached.files))
        await self.images.read(_expanded(attached.images), "auto")

    async def message(
        self, text: str, attached: Attachments, before: Sequence[ChatMessage]
    ) -> tuple[ChatMessage, tuple[str, ...]]:
        """The user's turn, and what was cut or changed in it.

        Raises InputRefusedError, and RequestError for more images than one request may hold.
        """
        files = await self.files.read(_expanded(attached.files))
        images = await self.images.read(_expanded(attached.images), "auto")
        refuse_images(len(images), before, self.images.limits.images, "Start a new one: /new")
        notes = tuple(one.note for one in (*files, *images) if one.note)
        piped = [TextFile("stdin", attached.piped)] if attached.piped else []
        return user_message([*files, *piped], images, text), notes


def _expanded(specs: Sequence[str]) -> list[str]:
    """The user's own folder written out, as shells do."""
    home = str(Path.home())
    return [home + spec[1:] if spec.startswith(("~/", "~\\")) else spec for spec in specs]
