"""`gemma-mcp doctor`: what works here, what does not, and what to do about it."""

import dataclasses
import json
from collections.abc import Iterator, Sequence

import anyio
import click

from gemma_mcp.cli.console import fitted
from gemma_mcp.cli.invocation import Invocation, overriding

__all__ = ["doctor"]

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@overriding
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look for what could keep models from running. The exit code is 1 if there is an error."""
    from gemma_mcp.cli.checks import examine
    from gemma_mcp.engine.registry import Registry

    given = context.find_object(Invocation)
    assert given is not None
    findings = anyio.run(examine, given, Registry.installed())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines([(one.status, one.topic, one.text, one.fix) for one in findings])))
    context.exit(1 if any(finding.status == "error" for finding in findings) else 0)


def _lines(findings: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    width = max(len(topic) for _, topic, _, _ in findings)
    indent = " " * (width + 11)
    for status, topic, text, fix in findings:
        line = fitted(text, indent, f"{status:7}  {topic:{width}}  ")
        yield click.style(status, fg=COLOURS[status]) + line.removeprefix(status)
        if fix:
            yield fitted(fix, f"{indent}  ", f"{indent}→ ")
