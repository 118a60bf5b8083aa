"""The tests of the chassis, which the template maintains."""

import pytest

# Failed assertions in helpers show values, as those in tests do.
pytest.register_assert_rewrite(f"{__name__}.support")
