"""What every test of the project shares: how property tests spend their time.

Hypothesis fails an example that takes longer than 200 ms, and a strategy that draws slowly. On a
busy machine both are statements about the machine; the suite times nothing but the start-up.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("lash", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lash")
