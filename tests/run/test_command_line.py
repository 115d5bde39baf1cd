"""Where compiled programs stay between commands, and between starts of Python."""

import jax
import pytest

import lzn_jax
from lzn_jax import files


@pytest.mark.parametrize("chosen", ["elsewhere", None])
def test_compiled_programs_stay_in_the_cache_unless_the_user_says_where(
    chosen, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", chosen)
    try:
        with pytest.raises(lzn_jax.UserError, match="no run"):
            lzn_jax.load(tmp_path / "nothing")
        assert jax.config.jax_compilation_cache_dir == (chosen or str(tmp_path))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
