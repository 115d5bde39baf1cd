"""Where compiled programs stay between commands."""

import jax
import pytest

from lzn_jax.run import reporting
from lzn_jax.run.command_line import use_compile_cache


@pytest.mark.parametrize("is_chosen", [True, False])
def test_compiled_programs_stay_in_the_cache_unless_the_user_says_where(
    is_chosen, tmp_path, monkeypatch
):
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(reporting, "cache_folder", lambda: tmp_path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if is_chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    use_compile_cache()
    assert settings.get("jax_compilation_cache_dir") == (None if is_chosen else str(tmp_path))
