"""The contract suite on the echo backend, as far as it goes: it has no sampler and no grammars."""

from collections.abc import Mapping
from typing import ClassVar

from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec
from gemma_mcp.testing.contract import BackendContract, Expected, never, notimpl
from gemma_mcp.testing.echo import EchoBackend


class TestEcho(BackendContract):
    """It repeats; what chooses otherwise is beyond it."""

    expected: ClassVar[Mapping[str, Expected]] = {
        "test_seeds_differ": never("it draws nothing"),
        "test_a_forbidden_token_is_not_chosen": never("it has no sampler"),
        "test_a_grammar_is_obeyed": never("it says what it was told"),
        "test_a_json_schema_is_obeyed": never("it says what it was told"),
        "test_a_bad_grammar_is_refused": never("it reads no grammars"),
        "test_a_bad_schema_is_refused": never("it reads no schemas"),
        "test_an_interrupt_without_a_step_does_nothing": never("orders that hold must not miss their interrupt"),
        "test_a_truncated_image_is_refused": never("it looks at the size alone"),
        "test_a_released_image_cannot_be_computed": notimpl("it looks handles up without a check", KeyError),
        "test_unknown_slots_are_refused": notimpl("it looks slots up without a check", IndexError),
    }

    @classmethod
    def load(cls, options: LoadOptions) -> Executor:
        spec = ModelSpec(name="echo", format="echo", path="window=64")
        return EchoBackend().load(spec, options, lambda share: None)
