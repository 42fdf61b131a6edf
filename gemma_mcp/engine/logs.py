"""The engine's log: a rotating file. It never holds a prompt or a reply."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from gemma_mcp.places import Places
from gemma_mcp.settings import EngineSettings
from gemma_mcp.state import private_folder

__all__ = ["engine_log", "log_path", "worker_log_path"]

OLD_LOGS = 3


def log_path(places: Places) -> Path:
    """The engine's log."""
    return places.logs / "engine.log"


def worker_log_path(places: Places, model: str) -> Path:
    """What a model's worker and its runtime wrote; a name that came from a path is made harmless."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in Path(model).stem)
    return places.logs / f"worker-{plain[:80].lstrip('.') or 'model'}.log"


@contextmanager
def engine_log(places: Places, settings: EngineSettings) -> Generator[logging.Logger]:
    """Send everything that is logged in this process to the engine's log."""
    private_folder(places.logs)
    handler = RotatingFileHandler(
        log_path(places), maxBytes=settings.log_max_bytes, backupCount=OLD_LOGS, encoding="utf-8", delay=True
    )
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    try:
        yield logging.getLogger("gemma_mcp.engine")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
