"""`gemma-mcp serve`, and what `python -m gemma_mcp` does without arguments. Light on purpose: see `cli.main`."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["serve"]

CONFIG_EXIT = 2


def serve(overrides: Sequence[str] = ()) -> NoReturn:
    """Serve MCP on stdin and stdout until the client goes. `overrides`: texts `key=value`, as flags give them."""
    if overrides:
        os.environ.update(_checked(overrides))  # an engine that this server starts must see them too
    from gemma_mcp.server.stdio import serve_stdio

    serve_stdio(os.environ)


def _checked(overrides: Sequence[str]) -> dict[str, str]:
    """The variables that stand for these flags, checked here, so that an error names the flag."""
    from gemma_mcp.cli.console import tell
    from gemma_mcp.cli.invocation import parse_overrides
    from gemma_mcp.errors import ConfigError
    from gemma_mcp.settings_sources import load_settings, variable

    try:
        given = parse_overrides(overrides)
        load_settings(os.environ, given)
    except ConfigError as error:
        tell(str(error))
        sys.exit(CONFIG_EXIT)
    return {variable(key): text for key, text in given.items()}
