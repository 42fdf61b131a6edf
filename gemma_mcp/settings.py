"""The settings: which keys exist, their types and bounds. Where values come from is `gemma_mcp.settings_sources`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "BackendSettings",
    "EngineSettings",
    "HttpSettings",
    "LlamaCppSettings",
    "MapSettings",
    "ModelSettings",
    "ServerSettings",
    "SessionSettings",
    "Settings",
]

Seconds = Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]

USUAL_CONTEXT, USUAL_SLOTS = 8192, 4
"""What a model gets where the choice is left to the engine and its memory suffices."""

LEAST_CONTEXT, MOST_CONTEXT = 128, 1 << 20


def _chosen_or_large(context: int) -> int:
    if 0 < context < LEAST_CONTEXT:
        raise ValueError("too small")
    return context


Context = Annotated[
    int,
    AfterValidator(_chosen_or_large),
    Field(
        ge=0,
        le=MOST_CONTEXT,
        json_schema_extra={"expected": f"0, or a whole number from {LEAST_CONTEXT} up to {MOST_CONTEXT}"},
    ),
]


class Section(BaseModel):
    """A table of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSettings(Section):
    """Which models there are."""

    default: Annotated[str, Field(min_length=1)]
    directories: tuple[str, ...]


class EngineSettings(Section):
    """The engine process."""

    port: Annotated[int, Field(ge=0, le=65535)]
    keep_alive: Seconds
    idle_exit: Seconds
    max_models: Annotated[int, Field(ge=0, le=1_000_000_000)]
    check_memory: bool
    queue_limit: Count
    start_timeout: Seconds
    load_timeout: Seconds
    step_timeout: Seconds
    log_level: Literal["debug", "info", "warning", "error"]
    log_max_bytes: Count


class BackendSettings(Section):
    """Which runtime and device."""

    name: str
    device: str


class LlamaCppSettings(Section):
    """How llama.cpp loads a model."""

    context: Context
    slots: Annotated[int, Field(ge=0, le=64)]
    threads: Annotated[int, Field(ge=0, le=1024)]
    gpu_layers: Annotated[int, Field(ge=-1, le=1000)]
    step_tokens: Annotated[int, Field(ge=64, le=16384)]
    prefill_chunk: Annotated[int, Field(ge=16, le=16384)]
    flash_attention: bool
    kv_type: Literal["auto", "f16", "q8_0"]
    checkpoint_bytes: Annotated[int, Field(ge=0)]
    decode_stretch: Annotated[float, Field(ge=1.1, le=100)]
    speculate: bool

    @property
    def wanted_context(self) -> int:
        """Tokens of one request, also where the engine chooses and may come down to fewer."""
        return self.context or USUAL_CONTEXT

    @property
    def wanted_slots(self) -> int:
        """Requests at the same time, also where the engine chooses and may come down to fewer."""
        return self.slots or USUAL_SLOTS


class ServerSettings(Section):
    """The MCP server: what it reads, how long it works."""

    root: str
    roots: tuple[str, ...]
    deny: tuple[str, ...]
    allow_secrets: bool
    write: Literal["never", "new", "overwrite"]
    max_seconds: Seconds
    max_tokens: Count
    max_prompt_bytes: Count
    max_file_bytes: Count
    max_files: Count
    max_image_bytes: Count
    max_image_pixels: Count
    max_images: Count
    progress_interval: Annotated[float, Field(ge=0.1, le=60)]
    task_after_seconds: Annotated[float, Field(ge=0, le=86400)]
    max_tasks: Count
    task_max_seconds: Seconds
    task_keep_seconds: Seconds


class HttpSettings(Section):
    """The MCP server over HTTP: where it listens, and whom it lets in."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535)]
    allow_remote: bool
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    clients: tuple[str, ...]


class SessionSettings(Section):
    """The conversations of `chat`: how long they are kept."""

    keep_days: Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)]
    max_bytes: Annotated[int, Field(ge=1_000_000, le=1_000_000_000_000)]
    max_sessions: Count


class MapSettings(Section):
    """`map_files`: how much one call may take on, and how long its results are kept."""

    at_once: Annotated[int, Field(ge=0, le=1024)]
    max_files: Count
    max_records: Count
    max_file_bytes: Count
    keep_days: Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)]
    max_bytes: Annotated[int, Field(ge=1_000_000, le=1_000_000_000_000)]
    cache_bytes: Annotated[int, Field(ge=1_000_000, le=1_000_000_000_000)]


class Settings(Section):
    """All settings."""

    model: ModelSettings
    engine: EngineSettings
    backend: BackendSettings
    llamacpp: LlamaCppSettings
    server: ServerSettings
    map: MapSettings
    sessions: SessionSettings
    http: HttpSettings
