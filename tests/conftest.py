"""Every test runs on the CPU with eight fake devices, which only the tests of sharding use."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Tests compile much and compute little.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
