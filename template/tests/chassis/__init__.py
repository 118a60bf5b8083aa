"""The tests of the chassis: the template's, as `make update` brings them."""

import pytest

# Failed assertions in helpers show their values, as those in tests do.
pytest.register_assert_rewrite(f"{__name__}.support")
