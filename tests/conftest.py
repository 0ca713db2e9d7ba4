"""What every test of the project shares: how property tests spend their time, and that no process outlives a test.

Hypothesis fails an example that takes longer than 200 ms, and a strategy that draws slowly. On a
busy machine both are statements about the machine; the suite times nothing but the start-up.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.processes import end_started

settings.register_profile("lash", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lash")


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Ends what the test did not end itself because it failed."""
    yield
    end_started()
