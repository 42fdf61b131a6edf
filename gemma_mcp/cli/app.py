"""The commands, put together."""

import os

import click

from gemma_mcp import __version__
from gemma_mcp.cli.bench import bench
from gemma_mcp.cli.chat import chat
from gemma_mcp.cli.config import config
from gemma_mcp.cli.demo import demo
from gemma_mcp.cli.doctor import doctor
from gemma_mcp.cli.engine import engine
from gemma_mcp.cli.http import http_token, serve_http
from gemma_mcp.cli.install import install
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.cli.sessions import sessions
from gemma_mcp.cli.stats import stats

__all__ = ["app"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gemma-mcp")
@click.pass_context
def group(context: click.Context) -> None:
    """Gemma models on your own hardware, offered as MCP tools."""


def app(arguments: list[str]) -> int | None:
    """Run the command line. Raises click's and our own errors; returns the exit code where a command chose one."""
    color = False if os.environ.get("NO_COLOR") else None  # https://no-color.org; None asks whether it is a terminal
    return group.main(arguments, prog_name="gemma-mcp", standalone_mode=False, obj=Invocation(os.environ), color=color)


@click.command()
@click.option("--http", "over_http", is_flag=True, help="Serve over HTTP instead, to clients that know the token.")
@click.option("--host", metavar="ADDRESS", help="With --http: address to listen on (http.host).")
@click.option("--port", type=click.IntRange(0, 65535), help="With --http: port; 0 takes a free one (http.port).")
@overriding
@click.pass_obj
def serve(given: Invocation, over_http: bool, host: str | None, port: int | None) -> None:
    """Serve MCP on stdin and stdout; this is what a client starts."""
    from gemma_mcp.cli.serve import serve as start

    if not over_http and (host is not None or port is not None):
        raise click.UsageError("--host and --port go with --http.")
    if over_http:
        flags = {"http.host": host, "http.port": port}
        given.overrides |= {key: str(value) for key, value in flags.items() if value is not None}
        serve_http(given)

    start([f"{key}={value}" for key, value in given.overrides.items()])


overriding(group)
for command in (serve, install, chat, http_token, engine, sessions, stats, demo, bench, doctor, config):
    group.add_command(command)
