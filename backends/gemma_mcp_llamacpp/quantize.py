"""Quantises a GGUF file in a process of its own: `python -m gemma_mcp_llamacpp.quantize SOURCE TARGET TYPE`.

TYPE is one of llama.cpp's file types, such as Q4_0. What goes wrong is said in one line on stderr; the exit code is 1.
"""

import ctypes
import sys
from collections.abc import Sequence

__all__ = ["main"]

PREFIX = "LLAMA_FTYPE_MOSTLY_"


def main(arguments: Sequence[str]) -> str | None:
    """Quantise; says what went wrong, if anything did."""
    try:
        import llama_cpp
    except Exception as error:  # its libraries may be built for another machine
        return f"llama-cpp-python cannot be imported: {error}"
    from gemma_mcp_llamacpp.log import native_log

    source, target, kind = arguments
    code = getattr(llama_cpp, PREFIX + kind, None)
    if not isinstance(code, int):
        known = sorted(name.removeprefix(PREFIX) for name in dir(llama_cpp) if name.startswith(PREFIX))
        return f"there is no type {kind!r}; llama.cpp knows {', '.join(known)}"
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = code
    with native_log().errors() as reasons:
        failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    return str(reasons) if failed else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
