"""Text in a prompt: `path`, `path:10-80`, patterns, `git:diff`; decoded, bounded, each in a block that names it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.encodings import Decoded, decode_lossy, decode_text
from gemma_mcp.server.inputs.globs import find_files, is_glob, listed
from gemma_mcp.server.inputs.path_forms import shorten
from gemma_mcp.server.inputs.paths import PathPolicy
from gemma_mcp.server.inputs.repository import GIT_PREFIX, read_git

__all__ = ["TextFile", "TextFiles", "compose", "split_lines", "split_range"]

LINES = re.compile(r"(?P<path>.+):(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?", re.DOTALL)
GIT_LINES = re.compile(r"(?P<path>git:\s*show\s[^:]+:.+):(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?", re.DOTALL)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


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
    """Reads text files under a path policy. Bytes: of one file as it lies on disk, and of all texts of a call."""

    policy: PathPolicy
    max_file_bytes: int
    max_files: int
    max_total_bytes: int = 4_000_000

    async def read(self, specs: Sequence[str]) -> list[TextFile]:
        """The files in the order given, those of a pattern in its place. Raises InputRefusedError with the reason."""
        if len(specs) > self.max_files:
            raise self._too_many(len(specs))
        return await anyio.to_thread.run_sync(partial(self._read_all, specs), abandon_on_cancel=True)

    async def read_text(self, path: str) -> TextFile:
        """One whole file, by its plain path."""
        return await anyio.to_thread.run_sync(partial(self._read_whole, path), abandon_on_cancel=True)

    def read_one(self, spec: str, lines: str = "") -> TextFile:
        """The file of a spec that is no pattern, or the `lines` ("10-80") of it as far as it has them. Blocks."""
        match = LINES.fullmatch(f"{spec}:{lines}") if lines else None
        return next(self._read_spec(spec, ())) if match is None else _first_lines(self._read_whole(spec), match)

    def _read_all(self, specs: Sequence[str]) -> list[TextFile]:
        read: list[TextFile] = []
        size = 0
        for spec in specs:
            for file in self._read_spec(spec, read):
                read.append(file)
                size += len(file.text.encode("utf-8"))
                if len(read) > self.max_files:
                    raise self._too_many(len(read))
                if size > self.max_total_bytes:
                    raise self._too_large(len(read), size)
        return read

    def _read_spec(self, spec: str, read: Sequence[TextFile]) -> Iterator[TextFile]:
        match = LINES.fullmatch(spec)
        if spec.startswith(GIT_PREFIX):
            yield self._read_git(spec)
        elif self.policy.exists(spec):  # wildcards and colons may be part of a name
            yield self._read_whole(spec)
        elif is_glob(spec):
            yield from self._read_glob(match["path"] if match else spec, match, read)
        elif match is not None:
            yield _lines_of(spec, self._read_whole(match["path"]), match)
        else:
            yield self._read_whole(spec)

    def _read_whole(self, path: str) -> TextFile:
        opened = self.policy.read(path, self.max_file_bytes)
        return _text_file(opened.name, decode_text(shorten(path), opened.data))

    def _read_git(self, spec: str) -> TextFile:
        match = GIT_LINES.fullmatch(spec)
        found = read_git(self.policy, match["path"] if match else spec, self.max_file_bytes)
        decoded = decode_text(shorten(spec), found.data) if found.whole_file else decode_lossy(found.data)
        file = _text_file(found.name, decoded, found.note)
        return _lines_of(spec, file, match) if match else file

    def _read_glob(self, pattern: str, lines: re.Match[str] | None, read: Sequence[TextFile]) -> Iterator[TextFile]:
        """The files that a pattern names, without those read already; what is no text is left out and named."""
        found = find_files(self.policy, pattern, self.max_files)
        known = {file.name for file in read if not file.lines}
        files: list[TextFile] = []
        no_text: list[str] = []
        for path in found.paths:
            opened = self.policy.read(path, self.max_file_bytes)
            try:
                file = _text_file(opened.name, decode_text(opened.name, opened.data))
            except InputRefusedError:
                no_text.append(opened.name)
                continue
            if file.name not in known:
                files.append(file if lines is None else _first_lines(file, lines))
        note = " · ".join(filter(None, (found.note, listed("left out as no text", no_text))))
        if not files and no_text:
            raise InputRefusedError(shorten(pattern), "none of the files that it matches is a text file")
        for place, file in enumerate(files):
            yield file if place else replace(file, note=" · ".join(filter(None, (file.note, note))))

    def _too_many(self, count: int) -> InputRefusedError:
        why = f"{count:,} were given, more than the {self.max_files:,} that server.max_files allows"
        return InputRefusedError("files", why, "Name fewer at once.")

    def _too_large(self, count: int, size: int) -> InputRefusedError:
        why = (
            f"the first {count:,} have {size:,} bytes together, more than the {self.max_total_bytes:,} that "
            "server.max_prompt_bytes allows"
        )
        return InputRefusedError("files", why, "Name fewer at once, or lines of them ('server.log:1-400').")


def split_range(spec: str) -> tuple[str, str]:
    """A path or pattern, and the lines ("10-80") that are asked of it, empty for all."""
    match = LINES.fullmatch(spec)
    return (match["path"], spec[len(match["path"]) + 1 :]) if match else (spec, "")


def compose(files: Sequence[TextFile], prompt: str) -> str:
    """The blocks of the files, a blank line, the prompt."""
    blocks = "\n".join(file.block for file in files)
    return f"{blocks}\n\n{prompt}" if blocks else prompt


def split_lines(text: str) -> list[str]:
    """Lines with their ends, as editors count them: only CR, LF and CRLF end a line."""
    return LINE.findall(text)


def _text_file(name: str, decoded: Decoded, note: str = "") -> TextFile:
    guessed = f"{name} read as {decoded.guessed}" if decoded.guessed else ""
    return TextFile(name, decoded.text, note=" · ".join(filter(None, (note, guessed))))


def _range(match: re.Match[str]) -> tuple[int, int]:
    return int(match["first"]), int(match["last"] or match["first"])


def _lines_of(spec: str, whole: TextFile, match: re.Match[str]) -> TextFile:
    first, last = _range(match)
    if first < 1 or last < first:
        raise InputRefusedError(spec, "lines are counted from 1, and the last is not before the first")
    lines = split_lines(whole.text)
    if first > len(lines):
        raise InputRefusedError(spec, f"the file has only {len(lines)} lines")
    end = min(last, len(lines))
    ends = f"{whole.name} ends at line {end}" if end < last else ""
    note = " · ".join(filter(None, (whole.note, ends)))
    return TextFile(whole.name, "".join(lines[first - 1 : end]), f"{first}-{end}", note)


def _first_lines(whole: TextFile, match: re.Match[str]) -> TextFile:
    """Lines of one of many files: that some are shorter is as expected."""
    return replace(_lines_of(f"{whole.name}:{match['first']}", whole, match), note=whole.note)
