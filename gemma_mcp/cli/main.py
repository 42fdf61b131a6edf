"""The command `gemma-mcp`: one place where it starts, and where its errors end.

This module stays light: `serve` must guard the wire and answer a client before anything big is imported.
"""

import sys
from collections.abc import Sequence

__all__ = ["main", "serve_overrides"]

INTERRUPTED = 130
"""What shells report for a command that Ctrl-C ended: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong usage or configuration."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    overrides = serve_overrides(given)
    if overrides is not None:
        from gemma_mcp.cli.serve import serve

        serve(overrides)
    from gemma_mcp.cli.console import make_output_safe

    make_output_safe()
    sys.exit(_run(given))


def serve_overrides(arguments: Sequence[str]) -> list[str] | None:
    """The `--set` texts of a command line that is nothing but `serve` and these, else None."""
    words, overrides = iter(arguments), list[str]()
    commands: list[str] = []
    for word in words:
        if word == "--set":
            overrides.append(next(words, ""))
        elif word.startswith("--set="):
            overrides.append(word.removeprefix("--set="))
        else:
            commands.append(word)
    return overrides if commands == ["serve"] else None


def _run(arguments: list[str]) -> int:
    import click

    from gemma_mcp.cli.app import app
    from gemma_mcp.cli.console import first_of_ours, tell
    from gemma_mcp.errors import ConfigError, GemmaError

    try:
        code = app(arguments)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (GemmaError, BaseExceptionGroup) as error:
        ours = first_of_ours(error)
        tell(str(ours))
        return 2 if isinstance(ours, ConfigError) else 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0
