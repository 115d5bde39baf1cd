"""Molecules, as SMILES strings: a data set of them, the data type, and what is measured."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rdkit import Chem, RDConfig, RDLogger
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.errors import UserError
from lzn_jax.models import in_training, keys_by_index
from lzn_jax.models.mlp import MLP

ALPHABET = "\n#()+-1234=BCFHINOPS[]clnors"  # the first one ends a molecule
LENGTH = 33  # tokens, the end included
BITS = 1024  # of a fingerprint

RDLogger.DisableLog("rdApp.*")


class NCI:
    """Molecules of the NCI that rdkit bundles, of at most 32 characters, by number of rings."""

    @staticmethod
    def load(data: Any, split: str) -> Examples:
        """Every tenth molecule is a test."""
        lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
        found = {canonical(line.split()[0]) for line in lines}
        kept = sorted(each for each in found if 0 < len(each) < LENGTH and {*each} <= {*ALPHABET})
        kept = [s for i, s in enumerate(kept) if (i % 10 == 9) == (split == "test")]
        rings = np.array([count_rings(smiles) for smiles in kept], np.int32)
        return Examples(None, rings, more={"molecules": np.array(kept)})

    @staticmethod
    def class_names(data: Any) -> tuple[str, ...]:
        """Numbers of rings."""
        return "no ring", "1 ring", "2 rings", "3 rings or more"


def canonical(smiles: str) -> str:
    """The SMILES that all writings of a molecule share; empty for what is none."""
    molecule = Chem.MolFromSmiles(smiles)
    return Chem.MolToSmiles(molecule) if molecule else ""


def count_rings(smiles: str) -> int:
    """Rings of a molecule, 3 for more."""
    return min(rdMolDescriptors.CalcNumRings(Chem.MolFromSmiles(smiles)), 3)


class Molecule(DataType):
    """Molecules, SMILES strings: a fingerprint is read, characters are written."""

    measurements = ("molecules",)
    example = "CCO"

    def __init__(self, config: Any) -> None:
        network = MLP(config.molecule.features, 1, config.latent.dim, 0.0, jnp.float32)
        encoder = NetworkEncoder.from_config(
            "molecule", config, network, column="fingerprints", example=jnp.zeros((1, BITS))
        )
        super().__init__("molecule", encoder, SmilesDecoder(config))

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """What the encoder reads, and what the decoder learns to write."""
        molecules = self.samples(examples)
        padded = [each.ljust(LENGTH, ALPHABET[0]) for each in molecules]
        tokens = np.array([[ALPHABET.index(c) for c in each] for each in padded], np.int32)
        return {"fingerprints": self.encoded(molecules), "tokens": tokens}

    def samples(self, examples: Examples) -> np.ndarray:
        """The molecules of a split."""
        return examples.more["molecules"]

    def encoded(self, samples: Any) -> np.ndarray:
        """Counts of substructures (n, 1024); raises UserError for what is no molecule."""
        generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
        molecules = [Chem.MolFromSmiles(str(each)) for each in samples]
        if None in molecules:
            raise UserError(f"{samples[molecules.index(None)]!r} is no molecule in SMILES")
        counts = [generator.GetCountFingerprintAsNumPy(each) for each in molecules]
        return np.log1p(np.stack(counts).astype(np.float32))

    def decoded(self, outputs: Any) -> np.ndarray:
        """SMILES of tokens, as written: not all are molecules."""
        written = ("".join(ALPHABET[token] for token in row) for row in np.asarray(outputs))
        return np.array([text.partition("\n")[0] for text in written])

    def parse(self, text: str) -> list[str]:
        """Molecules with commas between them."""
        return [part.strip() for part in text.split(",")]


class GRU(nn.Module):
    """Logits (b, l, alphabet) of characters (b, l), each given those before it and a latent."""

    features: int

    @nn.compact
    def __call__(self, tokens: Any, latents: Any, *, train: bool) -> jax.Array:
        """Logits; `train` changes nothing."""
        before = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        condition = nn.Dense(self.features)(latents)[:, None]
        h = nn.Embed(len(ALPHABET), self.features)(before) + condition
        h = nn.RNN(nn.GRUCell(self.features))(h)
        return nn.Dense(len(ALPHABET))(nn.gelu(nn.Dense(self.features)(h) + condition))


class SmilesDecoder:
    """Writes a molecule, character by character, given a latent."""

    network, output, num_draws = "molecule_decoder", "molecules", 1
    condition = None

    def __init__(self, config: Any) -> None:
        self.sources, self.noise_scale = ("molecule",), config.latent.noise_scale
        self.module, self._setting = GRU(config.molecule.features), config.molecule
        self._microbatch_size = config.training.microbatch_size

    def init(self, key: jax.Array, condition: Any) -> Any:
        """Fresh variables."""
        return self.module.init(key, jnp.zeros((1, LENGTH), jnp.int32), condition[0], train=False)

    def loss(self, variables: Any, batch: Any, condition: Any, keys: Any) -> jax.Array:
        """Cross-entropy of a character, of those up to the first end."""
        tokens, network = batch["tokens"], in_training(self.module, self._microbatch_size)
        logits = network(variables[self.network], keys[0], tokens, condition[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        counts = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=1)[:, :-1] > 0
        return jnp.sum(losses * counts) / jnp.sum(counts)

    def generate(self, variables: Any, key: jax.Array, condition: Any, index: Any) -> dict:
        """Tokens of the given numbers: each molecule has its own noise, whatever its batch."""
        keys = keys_by_index(key, "molecules", index)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (LENGTH, len(ALPHABET))))(keys)

        def write(place: Any, tokens: jax.Array) -> jax.Array:
            logits = self.module.apply(variables[self.network], tokens, condition[0], train=False)
            found = jnp.argmax(logits + self._setting.temperature * noise, axis=2)
            return tokens.at[:, place].set(found[:, place])

        start = jnp.zeros((len(index), LENGTH), jnp.int32)
        return {self.output: jax.lax.fori_loop(0, LENGTH, write, start)}


def measure(model: Any, train: Examples, test: Examples, workdir: Path) -> dict[str, float]:
    """Of molecules from labels: the shares that are molecules, have the rings, and are new."""
    labels = test.labels[:100]
    made = [canonical(each) for each in model.translate(labels, "label", "molecule")]
    rings = [count_rings(each) if each else -1 for each in made]
    is_new = [each not in set(train.more["molecules"]) for each in made if each]
    return {
        "molecules_valid": len(is_new) / len(made),
        "molecules_right": float(np.mean(rings == labels)),
        "molecules_new": float(np.mean(is_new or [0])),
    }


FIELDS = {
    "context_size": parts.count_or_0("context anchors, 0 = the samples at hand"),
    "features": parts.count("units of each layer", 128),
    "temperature": parts.amount("of characters, 0 = the likeliest", 0.5),
}
CLASSES = {"data.num_classes": parts.Field(int, "number of classes", 4, choices=(4,))}
parts.add("data", "nci", NCI, CLASSES)
RATE = parts.learning_rates("molecule_decoder")
parts.add("type", "molecule", Molecule, parts.group("molecule", FIELDS) | RATE)
parts.add("measurement", "molecules", measure)
