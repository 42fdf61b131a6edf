"""What `gemma-mcp doctor` looks at. Each check gives findings; none raises, and none changes anything."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemma_mcp.cli.console import size
from gemma_mcp.cli.invocation import Invocation
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.probe import probe_devices
from gemma_mcp.engine.registry import Registry
from gemma_mcp.engine.room import MemoryRoom
from gemma_mcp.errors import GemmaError, as_clause
from gemma_mcp.hardware import measure
from gemma_mcp.models.lookup import ECHO, find_model
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.wire import WIRE_VERSION

__all__ = ["Finding", "Status", "examine"]

Status = Literal["ok", "warning", "error"]
COMPILERS = ("c++", "g++", "clang++", "cl")
LITTLE_MEMORY_BYTES = 4 << 30
"""Below this not even the smallest Gemma that is of use, 4B at 4 bits (3 GB of weights), fits with its KV cache."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is what to do about a warning or an error."""

    topic: str
    status: Status
    text: str
    fix: str = ""


async def examine(given: Invocation, registry: Registry) -> list[Finding]:
    """Everything, in the order in which problems build on one another."""
    places, settings, findings = _configuration(given)
    findings = [_python(), *findings, *_folders(places)]
    findings += _runtimes(registry)
    findings += await _devices(registry)
    model, about_model = _model(settings, places)
    findings += [*about_model, await _memory(model, settings, registry)]
    if settings and places:
        findings.append(await _engine(settings, places))
    return findings


def _python() -> Finding:
    bits = 64 if sys.maxsize > 2**32 else 32
    text = f"{platform.python_implementation()} {platform.python_version()}, {bits} bit, {sys.executable}"
    if bits == 32:
        return Finding("Python", "error", text, "Install a 64-bit Python: models do not fit a 32-bit process.")
    return Finding("Python", "ok", text)


def _configuration(given: Invocation) -> tuple[Places | None, Settings | None, list[Finding]]:
    places: Places | None = None
    try:
        places = given.places
        loaded = given.loaded
    except GemmaError as error:
        return places, None, [_trouble("configuration", error)]
    changed = [key for key, origin in loaded.origins.items() if origin.kind != "default"]
    exists = "" if loaded.config_file.exists() else ", which does not exist"
    text = f"{loaded.config_file}{exists}; changed settings: {', '.join(changed) or 'none'}"
    return places, loaded.settings, [Finding("configuration", "ok", text)]


def _trouble(topic: str, error: GemmaError, status: Status = "error") -> Finding:
    return Finding(topic, status, error.message, error.hint)


def _folders(places: Places | None) -> Iterator[Finding]:
    if places is None:
        return
    for name, folder in _named(places).items():
        ground = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        if ground.is_dir() and os.access(ground, os.W_OK | os.X_OK):
            yield Finding(f"{name} folder", "ok", str(folder))
        else:
            why = "is not writable" if ground.is_dir() else "is not a folder"
            fix = "Make it writable for you, or set GEMMA_MCP_HOME to a folder that is."
            yield Finding(f"{name} folder", "error", f"{ground} {why}", fix)


def _named(places: Places) -> Mapping[str, Path]:
    return {
        "state": places.state,
        "log": places.logs,
        "model": places.models,
        "cache": places.cache,
        "session": places.sessions,
        "result": places.maps,
        "data": places.data,
    }


def _runtimes(registry: Registry) -> list[Finding]:
    """The backends but the one for tests. A compiler matters only as long as one that must be compiled is missing."""
    findings = [_runtime(registry, name) for name in registry.names() if name != ECHO]
    if not findings:
        fix = "Install gemma-mcp again: its own backends are part of it."
        return [Finding("runtime", "error", "no backend is installed", fix)]
    if all(finding.status == "ok" for finding in findings):
        return [*findings, _compiler("ok")]
    if any(finding.status == "ok" for finding in findings):
        findings = [Finding(one.topic, _softened(one.status), one.text, one.fix) for one in findings]
    return [*findings, _compiler("warning")]


def _softened(status: Status) -> Status:
    """One runtime that works is enough."""
    return "warning" if status == "error" else status


def _runtime(registry: Registry, name: str) -> Finding:
    try:
        backend = registry.ready(name)
    except GemmaError as error:
        return _trouble(f"runtime {name}", error)
    return Finding(f"runtime {name}", "ok", f"installed, reads {', '.join(backend.formats)}")


def _compiler(status: Status) -> Finding:
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found:
        return Finding("compiler", "ok", found)
    fix = "Install one: apt install g++ (Debian, Ubuntu), xcode-select --install (macOS), Build Tools (Windows)."
    text = "there is no C++ compiler, which llama-cpp-python is built with"
    return Finding("compiler", status, text, fix if status != "ok" else "")


async def _devices(registry: Registry) -> list[Finding]:
    """Asked in child processes, since a driver may hang."""
    findings: list[Finding] = []
    for name in registry.names():
        if name == ECHO or _runtime(registry, name).status != "ok":
            continue
        try:
            findings.append(Finding(f"devices {name}", "ok", ", ".join(await probe_devices(name))))
        except GemmaError as error:
            findings.append(_trouble(f"devices {name}", error))
    return findings


def _model(settings: Settings | None, places: Places | None) -> tuple[ModelSpec | None, list[Finding]]:
    if settings is None or places is None:
        return None, []
    name = settings.model.default
    try:
        spec = find_model(name, settings, places)
    except GemmaError as error:
        return None, [_trouble("model", error)]
    images = "reads images" if spec.projector else "text only"
    text = f"{spec.name}, {size(_file_bytes(spec))}, {images}: {spec.path}"
    if spec.notice:
        return spec, [Finding("model", "warning", text, spec.notice)]
    return spec, [Finding("model", "ok", text)]


def _file_bytes(spec: ModelSpec) -> int:
    paths = [Path(path) for path in (spec.path, spec.projector) if path]
    return sum(path.stat().st_size for path in paths if path.exists())


async def _memory(model: ModelSpec | None, settings: Settings | None, registry: Registry) -> Finding:
    hardware = measure()
    cores = f"{hardware.physical_cores} cores ({hardware.usable_cores} threads)"
    text = f"{size(hardware.available_bytes)} of {size(hardware.memory_bytes)} are free, {cores}"
    try:
        fit = await _fit(model, settings, registry) if model and settings else ""
    except GemmaError as error:
        return Finding("memory", "error", f"{text}; {as_clause(error.message)}", error.hint)
    text = f"{text}; the model: {fit}" if fit else text
    if hardware.available_bytes < LITTLE_MEMORY_BYTES:
        return Finding("memory", "warning", text, "Real Gemma models need 4 GiB and more: close other programs.")
    return Finding("memory", "ok", text)


async def _fit(model: ModelSpec, settings: Settings, registry: Registry) -> str:
    """How an engine without other models would load it. Raises ModelTooLargeError."""
    room = MemoryRoom(settings, registry, measure)
    await room.claim(model, model, coming=False, others=False)
    return str(room.fit(model) or "")


async def _engine(settings: Settings, places: Places) -> Finding:
    """An engine is looked for, never started."""
    try:
        async with EnginePool(settings, places) as pool:
            status = await pool.running()
    except GemmaError as error:
        return _trouble("engine", error, "warning")
    if status is None:
        return Finding("engine", "ok", "not running; the first call starts it")
    models = ", ".join(model.model for model in status.models) or "no model"
    text = f"running, pid {status.pid}, port {status.port}, version {status.version}, {models} loaded"
    if status.wire_version != WIRE_VERSION:
        return Finding("engine", "warning", f"{text}; it is of another release", "gemma-mcp engine stop")
    if not status.same_settings:
        why = "it was started with other settings or by another Python"
        return Finding("engine", "warning", f"{text}; {why}", "gemma-mcp engine stop; the next call starts a new one.")
    return Finding("engine", "ok", text)
