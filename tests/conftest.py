"""Every test runs on the CPU with eight fake devices, which only the tests of sharding use.

XLA does without most optimisations: programs compile in a third of the time, and most run for a few
steps alone. Without these its older emitters of fused loops, where it still has them, compile
faster than its new ones.
"""

import importlib
import importlib.metadata
import os
import resource
from pathlib import Path

import pytest
import threadpoolctl

# NumPy's further threads wait for work in loops, and so take twice the CPU time. Workers of tests
# fill the cores.
threadpoolctl.threadpool_limits(1, "blas")
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of processes that tests start
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").split(".")[:2] == ["0", "10"]:
    # Unknown to others. A program compiled in one piece, not in 32, takes four fifths of the time.
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

# Under the hook of --jaxtyping-packages imports are compiled from source, not from their bytecode,
# which takes ten seconds. So what lzn_jax imports is imported before.
for name in ("jax", "flax.linen", "optax", "orbax.checkpoint", "sklearn.manifold", "clu"):
    importlib.import_module(name)


# Files of half a minute come first, so that workers end together.
DEAREST = ("test_original_trainer.py", "test_main.py", "test_translation.py", "test_contract.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in DEAREST)


@pytest.fixture(scope="session", autouse=True)
def compile_cache(pytestconfig, tmp_path_factory):
    """Compiled programs, for all workers, subprocesses and later runs; --cache-clear drops them.

    With `-p no:cacheprovider` they are kept for this worker alone.
    """
    cache = getattr(pytestconfig, "cache", None)
    folder = str(cache.mkdir("xla") if cache else tmp_path_factory.mktemp("xla"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder

    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Forgets compiled programs after a file once the process holds 2 GB."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * resource.getpagesize() > 2e9:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="module")
def full_speed():
    """Optimises programs: where they run for long, or as users run them is the point."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def small_files_only():
    """Writing beyond 1 MB in one file fails, as all writing does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def switch_on():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))

    yield switch_on
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
