"""Before any test module is imported: failures in the public testing tools are shown in full."""

import pytest

pytest.register_assert_rewrite("gemma_mcp.testing")
