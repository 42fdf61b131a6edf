"""`gemma-mcp serve --http`, and `gemma-mcp http-token`."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import anyio
import click

from gemma_mcp.cli.console import tell
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.errors import RequestError

if TYPE_CHECKING:  # a second of imports that other commands do without
    from gemma_mcp.server.http_serving import HttpService

__all__ = ["http_token", "serve_http"]


def serve_http(given: Invocation) -> NoReturn:
    """Serve MCP over HTTP until a signal comes. Raises ConfigError; otherwise never returns."""
    from gemma_mcp.server.http_serving import HttpService
    from gemma_mcp.server.stderr import ErrorPump

    service = HttpService(given.loaded, given.places)
    with ErrorPump.passing_on():
        for line in _greeting(service, shown=sys.stderr.isatty()):
            tell(line)
        anyio.run(service.serve)
    os._exit(0)  # nothing that still runs is waited for


def _greeting(service: "HttpService", *, shown: bool) -> Iterator[str]:
    """How to add it to a client. Tokens are spelt out for a person only: what is not a terminal may be kept."""
    yield f"MCP at {service.url} until Ctrl-C. Add it to a client, for example:"
    for client in service.clients:
        token = service.tokens[client.name] if shown else f"$(gemma-mcp http-token {client.name})"
        yield f'claude mcp add --transport http gemma {service.url} --header "Authorization: Bearer {token}"'
        files = f"may name files in {client.root}" if client.root else "has no project folder (http.clients names one)"
        yield f"  The client {client.name!r} {files}."
    if service.remote:
        yield "Warning: other machines can reach this, and it is plain HTTP: tokens and texts can be read on the way."


@click.command("http-token")
@click.argument("name", required=False)
@click.option("--renew", is_flag=True, help="Make a new one; a server that runs knows it after a restart.")
@overriding
@click.pass_obj
def http_token(given: Invocation, name: str | None, renew: bool) -> None:
    """Print the token of an HTTP client. It is made if there is none yet."""
    from gemma_mcp.server.http_clients import Tokens, configured_clients

    names = [client.name for client in configured_clients(given.loaded.settings)]
    chosen = name or names[0]
    if chosen not in names or (name is None and len(names) > 1):
        what = f"There is no client {chosen!r}." if name else "There are several clients."
        raise RequestError(what, f"Clients of http.clients: {', '.join(names)}.")
    click.echo(Tokens(given.places).of([chosen], renew=renew)[chosen])
