"""llama.cpp as a backend, through the low-level API of llama-cpp-python."""

from gemma_mcp_llamacpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
