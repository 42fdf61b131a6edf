"""`python -m gemma_mcp` serves MCP over stdio; with arguments it is the command line."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Serve, or hand over to the command line."""
    _forget_working_folder()
    if len(sys.argv) > 1:
        from gemma_mcp.cli.main import main as command_line

        command_line()
    else:
        from gemma_mcp.server.stdio import serve_stdio

        serve_stdio(os.environ)


def _forget_working_folder() -> None:
    """`python -m` looks for modules in the working folder first, and that is the user's project, not ours."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib comes later
    if not sys.flags.safe_path and sys.path[0] == os.getcwd() != ours:  # noqa: PTH109
        del sys.path[0]


if __name__ == "__main__":
    main()
