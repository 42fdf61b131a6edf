"""Text files in a prompt: `path` and `path:10-80`, decoded, bounded, each in a block that names it."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.paths import PathPolicy

__all__ = ["TextFile", "TextFiles", "compose", "split_lines"]

LINES = re.compile(r"(?P<path>.+):(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?", re.DOTALL)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")

UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
ENCODINGS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
"""By byte order mark; without one a text file is UTF-8."""


@dataclass(frozen=True)
class TextFile:
    """A file, or some lines of one (`lines` is then "10-80"), and what of the asked was not there."""

    name: str
    text: str
    lines: str = ""
    note: str = ""

    @property
    def block(self) -> str:
        """How the model sees it."""
        lines = f' lines="{self.lines}"' if self.lines else ""
        name = self.name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        end = "" if self.text.endswith("\n") else "\n"
        return f'<file path="{name}"{lines}>\n{self.text}{end}</file>'


@dataclass(frozen=True)
class TextFiles:
    """Reads text files under a path policy. Bytes: of one file as it lies on disk."""

    policy: PathPolicy
    max_file_bytes: int
    max_files: int

    async def read(self, specs: Sequence[str]) -> list[TextFile]:
        """The files in the order given. Raises InputRefusedError naming path and reason."""
        if len(specs) > self.max_files:
            raise InputRefusedError(
                "files", f"{len(specs)} were given, more than the {self.max_files} that server.max_files allows"
            )
        return await anyio.to_thread.run_sync(lambda: [self._read_one(spec) for spec in specs])

    async def read_text(self, path: str) -> TextFile:
        """One whole file, by its plain path."""
        return await anyio.to_thread.run_sync(partial(self._read_whole, path))

    def _read_one(self, spec: str) -> TextFile:
        match = LINES.fullmatch(spec)
        if match is None or self.policy.exists(spec):  # a colon may be part of a name
            return self._read_whole(spec)
        whole = self._read_whole(match["path"])
        return _lines_of(spec, whole, int(match["first"]), int(match["last"] or match["first"]))

    def _read_whole(self, path: str) -> TextFile:
        opened = self.policy.read(path, self.max_file_bytes)
        return TextFile(opened.name, _decode(path, opened.data))


def compose(files: Sequence[TextFile], prompt: str) -> str:
    """The blocks of the files, a blank line, the prompt."""
    blocks = "\n".join(file.block for file in files)
    return f"{blocks}\n\n{prompt}" if blocks else prompt


def split_lines(text: str) -> list[str]:
    """Lines with their ends, as editors count them: only CR, LF and CRLF end a line."""
    return LINE.findall(text)


def _lines_of(spec: str, whole: TextFile, first: int, last: int) -> TextFile:
    if first < 1 or last < first:
        raise InputRefusedError(spec, "lines are counted from 1, and the last is not before the first")
    lines = split_lines(whole.text)
    if first > len(lines):
        raise InputRefusedError(spec, f"the file has only {len(lines)} lines")
    end = min(last, len(lines))
    note = f"{whole.name} ends at line {end}" if end < last else ""
    return TextFile(whole.name, "".join(lines[first - 1 : end]), f"{first}-{end}", note)


def _decode(path: str, data: bytes) -> str:
    refused = InputRefusedError(path, "it is not a text file", "Text must be UTF-8, or UTF-16 with a byte order mark.")
    if data.startswith(UTF32_MARKS):
        raise refused
    mark, encoding = next(((mark, name) for mark, name in ENCODINGS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        raise refused from None
    if "\0" in text:
        raise refused
    return text
