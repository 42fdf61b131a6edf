"""The contract suite: what every backend must do, ours or a stranger's. It needs pytest.

Use it by subclassing, in a module that pytest collects:

    class TestMyBackend(BackendContract):
        facts = Facts()
        expected = {"test_a_grammar_is_obeyed": never("it has no sampler", AssertionError)}

        @classmethod
        def load(cls, options: LoadOptions) -> Executor:
            return MyBackend().load(ModelSpec(name="tiny", format="gguf", path="tiny.gguf"), options, print)

A case that a backend cannot meet is named in `expected`, with the reason and the exception that it ends in. It must
then fail in just this way: a case that comes to pass is reported too.
"""

from gemma_mcp.testing.contract_choosing import ChoosingCases
from gemma_mcp.testing.contract_computing import ComputingCases
from gemma_mcp.testing.contract_ground import Expected, Facts, never, notimpl, notyet
from gemma_mcp.testing.contract_guessing import GuessingCases
from gemma_mcp.testing.contract_sharing import SharingCases

__all__ = ["BackendContract", "Expected", "Facts", "never", "notimpl", "notyet"]


class BackendContract(ComputingCases, SharingCases, GuessingCases, ChoosingCases):
    """All cases. One model is loaded for all of them."""
