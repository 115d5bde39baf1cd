"""Whether tests notice subtle bugs: each mutant has one, at which a selection of tests must fail.

    python tests/mutants.py [--only SUBSTRING] [--list]

It works on a copy of package and tests. Exit code 1 if a mutant survives or cannot be made.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lzn_jax", "tests", "configs", "examples", "pyproject.toml")
A_RUN = 300  # seconds; a mutant that takes longer is dead

CONTRACT, GOLDEN = "zoning/test_contract.py -k ", "zoning/test_golden.py -k "
PROPERTIES, ADAMS = "zoning/test_properties.py -k ", "zoning/test_adams.py -k "
ROWS, MICROBATCHES = "zoning/test_rows.py -k ", "test_microbatches.py -k "
FLOW_LOSS, OPTIMIZATION = "losses/test_rectified_flow.py -k ", "test_optimization.py -k "
CHECKPOINTS, PIPELINE = "run/test_checkpoints.py -k ", "data/test_data.py -k "
SAMPLES, PROBES = "evaluation/test_sample_metrics.py -k ", "evaluation/test_probes.py -k "
NEIGHBOURS, ACCURACY = "evaluation/test_neighbours.py -k ", "zoning/test_accuracy.py -k "
ORIGINAL = "test_original_trainer.py -k 'losses and gen'"
METRICS = "evaluation/test_metrics.py -k batches_of_any_size"
METRICS_SURE = "evaluation/test_metrics.py -k recognised"
BANK = "test_alone.py -k newest_anchors"
RETRIEVAL = "evaluation/test_retrieval.py -k "
ANSWERS = "demo/test_answers.py -k "
JOINT, MODEL = "test_joint.py -k ", "test_trained_model.py -k "
DRIFT = "losses/test_drift.py -k "
ENERGY, ALONE = "losses/test_energy.py -k ", "test_alone.py -k "
SPACE, DECODERS = "test_translation.py -k ", "data_types/test_image_decoders.py -k "
TEXT, DIGIT_CAPTIONS = "data_types/test_text.py -k ", "evaluation/test_digit_captions.py -k "
COMPILATION, EXPORT = "modes/test_compilation.py -k ", "modes/test_export.py -k "
REPLACED, EXPORTED = EXPORT + "replaces", EXPORT + "'alone and joint'"
MADE = "evaluation/test_text_quality.py -k made_images"
VALIDATION = "data/test_data.py -k "
COUNTED = "evaluation/test_measurements.py -k samples_of_classes"
PAIRS, FLOWS = "data/test_folder.py -k ", SPACE + "'by_the_flow or flow_of_the'"
CONFIGURATION, PARTS = "test_configuration.py -k ", "test_parts.py -k "
PROGRESS, SHARING = "run/test_progress.py -k ", "release/test_shared_model.py -k "
SHARP, CONTRASTIVE = "zoning/test_sharpness.py -k ", "losses/test_contrastive.py -k "
QUERIES, FAR = ADAMS + "in_a_context", ACCURACY + "'in_context and 1000'"
SCORE = PROPERTIES + "score_identity"
GRADIENTS, REMOVED = CONTRACT + "gradients_of_latents", CONTRACT + "as_if_a_removed"


class Mutant(NamedTuple):
    """A bug, and the tests that must notice it."""

    file: str  # below lzn_jax/
    text: str  # which is there exactly once
    becomes: str
    tests: str  # below tests/, with arguments of pytest

    def applied(self, source: str) -> str:
        """The file's source with the bug."""
        if source.count(self.text) != 1:
            raise SystemExit(f"{self.file} has not once but {source.count(self.text)}: {self.text}")
        return source.replace(self.text, self.becomes)


MUTANTS = (
    Mutant("zoning/flow.py", "0.5 * r**2 * view.squared_MxN", "r**2 * view.squared_MxN", SCORE),
    Mutant("zoning/flow.py", "inner_MxN -= _pairwise_sum", "inner_MxN += _pairwise_sum", SCORE),
    Mutant("zoning/flow.py", "(points.own_M[:", "(1 + points.own_M[:", SCORE),
    Mutant("zoning/flow.py", "jnp.maximum(largest_M,", "(0 *", ACCURACY + "improbable"),
    Mutant("zoning/flow.py", "LOGIT = -60.0", "LOGIT = -6.0", GOLDEN + "euler_small"),
    Mutant("zoning/flow.py", "abs(middle_Q) / 2", "abs(middle_Q) * 2", ROWS + "centering"),
    Mutant(
        "zoning/flow.py",
        "Q, log_weights_M, log_weights_M",
        "Q, log_weights_M, no_weight_M",
        QUERIES,
    ),
    Mutant("zoning/flow.py", "h_N_M - others_M * h_M", "h_N_M + others_M * h_M", GRADIENTS),
    Mutant("zoning/flow.py", "d_log_own_M - w_own_M * h_M", "d_log_own_M", GRADIENTS),
    Mutant("zoning/flow.py", "r**2 * d_logit_sum_N if", "r * d_logit_sum_N if", GRADIENTS),
    Mutant("zoning/flow.py", "weights_SxKxP[age:, age]", "weights_SxKxP[age:, 0]", GRADIENTS),
    Mutant("zoning/solvers.py", "phi2 / h - 0.5", "phi2 / h - 1.0", PROPERTIES + "order_3_beats"),
    Mutant("zoning/solvers.py", "num_steps - k)", "num_steps - k + 1)", GOLDEN + "fewsteps"),
    Mutant(
        "zoning/solvers.py",
        "ends = np.append(t_end / after",
        "ends = np.append(after / after",
        GOLDEN + "dpm_small",
    ),
    Mutant("zoning/solvers.py", "sqrt(1 / 12)", "sqrt(1 / 3)", ADAMS + "orders_and_steps"),
    Mutant("zoning/solvers.py", "(jnp.log(count_M)", "(-jnp.log(count_M)", ADAMS + "and_gradient"),
    Mutant("zoning/solvers.py", "rms = jnp.sqrt(2 * ", "rms = jnp.sqrt(", ADAMS + "and_the_loss"),
    Mutant("zoning/alignment.py", "self.first :", "self.first + 1 :", CONTRACT + "best_assignment"),
    Mutant("zoning/alignment.py", "int(cutoff * ", "round(cutoff * ", CONTRACT + "is_truncated"),
    Mutant("zoning/alignment.py", "[:, -1] >= ", "[:, 0] >= ", CONTRACT + "metrics_of"),
    Mutant("zoning/alignment.py", "d_loss * gradient", "gradient", GOLDEN + "grad_align_small"),
    Mutant("zoning/alignment.py", "counts_M > 0", "counts_M >= 0", CONTRACT + "any_number_of_rows"),
    Mutant("zoning/latents.py", "indices + len(", "indices - len(", CONTRACT + "from_the_end"),
    Mutant("zoning/latents.py", "isneginf(mixture", "isposinf(mixture", CONTRACT + "the_answer"),
    Mutant("zoning/latents.py", "values >= count", "values > count", CONTRACT + "bad_arguments"),
    Mutant("zoning/plain.py", "int(cutoff * ", "round(cutoff * ", CONTRACT + "after_the_cutoff"),
    Mutant("zoning/devices.py", "len(mesh.axis_names) == 1", "False", CONTRACT + "gathers"),
    Mutant("zoning/devices.py", "a + zero.astype(a.dtype)", "a", CONTRACT + "alone"),
    Mutant("zoning/flow.py", "likeliest_Q, anchors_NxQ)", "anchors_NxQ, anchors_NxQ)", REMOVED),
    Mutant("zoning/devices.py", 'pad("constant")', 'pad("edge")', ROWS + "blocks_give"),
    Mutant("zoning/devices.py", "(mixture, origin,", "(mixture, 0 * origin,", FAR),
    Mutant("zoning/devices.py", "jax.lax.psum", "jax.lax.pmean", ROWS + "devices_give"),
    Mutant("losses/contrastive.py", "bool), -jnp.inf", "bool), 0.0", "losses/test_contrastive.py"),
    Mutant("decoders/flow.py", "(time_key", "(noise_key", FLOW_LOSS + "draws_time"),
    Mutant("decoders/flow.py", "dt * k", "dt * (k + 1)", FLOW_LOSS + "at_the_start"),
    Mutant("microbatches.py", "reshape(size, -1,", "reshape(-1, size,", MICROBATCHES + "sees"),
    Mutant("microbatches.py", "(count))", "(count) % (size or count))", MICROBATCHES + "own_key"),
    Mutant("optimization.py", "(1 + (steps - 1) *", "(steps *", OPTIMIZATION + "warmup_is"),
    Mutant("optimization.py", "(step, steps) / steps", "(step / (steps - 1), 1)", ORIGINAL),
    Mutant("optimization.py", "step < stops", "step <= stops", OPTIMIZATION + "decoder_stops"),
    Mutant("optimization.py", "(10 + step + 1)", "(10 + step)", OPTIMIZATION + "recurrence"),
    Mutant("run/checkpoints.py", '["step"] != step:', '["step"] < 0:', CHECKPOINTS + "renamed"),
    Mutant("run/checkpoints.py", ", reverse=True", "", CHECKPOINTS + "what_is_saved"),
    Mutant("run/checkpoints.py", "if s > step]", "if s >= step]", CHECKPOINTS + "makes_way"),
    Mutant("run/files.py", "or _top(name) in parts", "or name", CHECKPOINTS + "verifies_what"),
    Mutant(
        "data/__init__.py",
        "stream[step * self.size",
        "stream[step * len(self.own)",
        PIPELINE + "rows_of",
    ),
    Mutant("data/__init__.py", "shuffle().repeat()", "repeat().shuffle()", PIPELINE + "each_epoch"),
    Mutant(
        "randomness.py",
        "jax.random.fold_in(key, crc",
        "(lambda k, _: k)(key, crc",
        "test_randomness.py",
    ),
    Mutant("evaluation/metrics.py", "a.count * (b", "(b", "evaluation/test_frechet.py -k equals"),
    Mutant("evaluation/metrics.py", "(len(x) - 1)", "len(x)", SAMPLES + "'kid and loop'"),
    Mutant("evaluation/metrics.py", "(distances, np.inf)", "(distances, 0.0)", SAMPLES + "by_hand"),
    Mutant("evaluation/metrics.py", "(len(log_p))", "(log_p.size)", SAMPLES + "score"),
    Mutant(
        "evaluation/probes.py",
        "[found_labels, labels]",
        "[labels, found_labels]",
        NEIGHBOURS + "hand",
    ),
    Mutant("evaluation/probes.py", "(rank < k)", "(rank <= k)", PROBES + "accuracy"),
    Mutant("evaluation/probes.py", "bias - self.mean", "bias + self.mean", PROBES + "scikit"),
    Mutant("evaluation/metrics.py", "s, outputs.features[:count]", "s, outputs.features", METRICS),
    Mutant(
        "losses/sets.py",
        "2 * _mean_distance(x, y)",
        "_mean_distance(x, y)",
        ENERGY + "definition",
    ),
    Mutant("losses/sets.py", "- jnp.eye(count, dtype=x.dtype)", "", ENERGY + "belong"),
    Mutant(
        "losses/sets.py",
        "position // columns, position % columns",
        "position // rows, position % rows",
        ENERGY + "all_patches",
    ),
    Mutant(
        "decoders/flow.py",
        'jax.lax.stop_gradient(variables["encoder"])',
        'variables["encoder"]',
        ALONE + "distance_of_anchors",
    ),
    Mutant("decoders/flow.py", "* set_loss(x, y)", "* set_loss(y, x)", ALONE + "the_loss"),
    Mutant("data_types/__init__.py", "[:, 0], samples", "[:, -1], samples", ALONE + "even_steps"),
    Mutant(
        "data_types/image.py", '[anchors, fixed["anchors"]]', '[fixed["anchors"], anchors]', BANK
    ),
    Mutant("data_types/image.py", "size, -jnp.inf", "size, 0.0", BANK),
    Mutant("train.py", "state.constants, state.ema", "constants, state.ema", ALONE + "finite"),
    Mutant("data_types/label.py", "labels[:, None] ==", "labels[:, None] !=", ALONE + "zones_of"),
    Mutant("evaluation/metrics.py", "likeliest >= CONFIDENT", "likeliest > 0", METRICS_SURE),
    Mutant("evaluation/samples.py", "/ np.float32(127.5)", "", "evaluation/test_nearest.py"),
    Mutant("evaluation/texts.py", "right[nearest]", "right", RETRIEVAL + "picture"),
    Mutant("evaluation/texts.py", "(rows, text)", "(text, rows)", RETRIEVAL + "several_texts"),
    Mutant("evaluation/texts.py", "test.at(rows)", "test", RETRIEVAL + "several_texts"),
    Mutant(
        "decoders/flow.py",
        'named(key, "condition")',
        "jax.random.fold_in(key, 1)",
        "data_types/test_image_decoders.py -k dropped",
    ),
    Mutant("trained_model.py", "min(scale, aligned_at)", "scale", SPACE + "noise_scale"),
    Mutant("data_types/label.py", "cutoff=last", "cutoff=0.2", ANSWERS + "probability"),
    Mutant("demo/answers.py", "* self._share_of_height", "* 0.7", ANSWERS + "drawing"),
    Mutant("trained_model.py", "main, main, 1.0", "main, main, 0.0", MODEL + "siblings"),
    Mutant("data_types/__init__.py", ".get(name, drawn)", ".get(0, drawn)", JOINT + "draws_of"),
    Mutant("latent_space.py", "else count * ~is", "else 0 * ~is", SPACE + "makes_way"),
    Mutant(
        "latent_space.py", "masks = [is_present", "masks = [] and [is_present", SPACE + "no_example"
    ),
    Mutant("latent_space.py", "present(source, target)", "present(source)", SPACE + "alignments"),
    Mutant("latent_space.py", "present(source, target)", "present(target)", SPACE + "alignments"),
    Mutant(
        "latent_space.py",
        '"solver": solver(setting)',
        '"solver": zoning.Euler(4)',
        SPACE + "alignments_are",
    ),
    Mutant(
        "latent_space.py",
        "scale * noise, self.solver",
        "scale * noise, self.alignment_solver",
        SPACE + "alignments_are",
    ),
    Mutant("inference.py", "if name in samples:", "if not samples:", SPACE + "own_anchor_as"),
    Mutant(
        "data_types/__init__.py",
        "source_scale = target_scale = 0.0",
        "source_scale = target_scale = 1.0",
        SPACE + "noise_scale_is",
    ),
    Mutant("data_types/image.py", "scale = 1.0", "scale = 0.0", SPACE + "noise_scale_is"),
    Mutant("trained_model.py", "if noise_scale is None:", "if True:", SPACE + "noise_scale_is"),
    Mutant("inference.py", "if is_table else", "if not is_table else", FLOWS),
    Mutant(
        "inference.py",
        "].predict(model, latents, space.alignment_solver)",
        "].predict(model, latents, space.solver)",
        FLOWS,
    ),
    Mutant(
        "inference.py",
        "class_probabilities(model, latents, space.alignment_solver)",
        "class_probabilities(model, latents, space.solver)",
        FLOWS,
    ),
    Mutant("inference.py", "solver, key = space.alignment_s", "solver, key = space.s", FLOWS),
    Mutant(
        "inference.py",
        "zeros_like(anchors), solver=space.s",
        "zeros_like(anchors), solver=space.alignment_s",
        FLOWS,
    ),
    Mutant("decoders/flow.py", "1 - rate, (", "rate, (", DECODERS + "dropped"),
    Mutant(
        "decoders/flow.py",
        "jnp.repeat(a, draws, axis=0)",
        "jnp.repeat(a, draws, axis=0) if a is images else jnp.tile(a, (draws, 1))",
        DECODERS + "own_condition",
    ),
    Mutant(
        "evaluation/classification.py",
        "classes == test.labels[rows]",
        "classes != test.labels[rows]",
        "test_classification.py -k other_types",
    ),
    Mutant("evaluation/texts.py", "(queries, targets,", "(targets, queries,", MADE),
    Mutant("evaluation/samples.py", "if is_conditional", "if not is_conditional", COUNTED),
    Mutant(
        "data/folder.py",
        "np.unique(rows, return",
        "np.unique(np.arange(len(names)), return",
        PAIRS + "hold_out",
    ),
    Mutant(
        "modes/compile.py",
        "_in_bytes - analysis.alias",
        "_in_bytes + 0 * analysis.alias",
        COMPILATION + "place_of_the_state",
    ),
    Mutant(
        "evaluation/samples.py",
        "(count) * len(images) // count",
        "(count)",
        "evaluation/test_nearest.py -k even_steps",
    ),
    Mutant("evaluation/texts.py", "anchors, 0.0,", "anchors, 1.0,", SPACE + "retrieval_compares"),
    Mutant(
        "evaluation/texts.py",
        "if model.space.baseline",
        "if not model.space.baseline",
        SPACE + "retrieval_compares",
    ),
    Mutant(
        "data_types/text.py",
        "None = config.text_decoder.noise_scale",
        "None = config.latent.noise_scale",
        SPACE + "own_noise_scale",
    ),
    Mutant("latent_space.py", "(len(noise), 1))", "(1, 1))", SPACE + "own_noise_scale"),
    Mutant(
        "data_types/text.py",
        "logits / self.temperature, self.top_p)",
        "logits, self.top_p) / self.temperature",
        TEXT + "at_the_temperature",
    ),
    Mutant(
        "data_types/text.py", "config, config.text_d", "config, config.text_e", TEXT + "own_rate"
    ),
    Mutant("models/transformer.py", "=not train", "=True", TEXT + "own_rate"),
    Mutant(
        "models/transformer.py",
        "jnp.sum(mask, axis=1, keepdims=True)",
        "tokens.shape[1]",
        TEXT + "room",
    ),
    Mutant("models/transformer.py", "dtype)(x)) + x", "dtype)(x))", TEXT + "beside"),
    Mutant(
        "tokenizers.py",
        "1 + max(self._tokens.get_vocab().values(), default=-1)",
        "len(self._tokens.get_vocab())",
        "test_tokenizers.py -k room",
    ),
    Mutant(
        "evaluation/samples.py",
        "np.random.default_rng(0).permutation(count)",
        "np.arange(count)",
        "test_evaluation.py -k files_go",
    ),
    Mutant(
        "demo/answers.py",
        "evenly_spaced(min(count, MAX_MAP_IMAGES), count)",
        "np.arange(min(count, MAX_MAP_IMAGES))",
        ANSWERS + "files_go",
    ),
    Mutant(
        "data/folder.py",
        "if place == root:",
        "if place == folder.root:",
        PAIRS + "metadata_above",
    ),
    Mutant(
        "run/log.py",
        "(path))}, step=step)",
        "(path))})",
        "run/test_wandb_sink.py -k goes_on_as",
    ),
    Mutant("run/command_line.py", "[folder] is", "[folder] is not", "run/test_command_line.py"),
    Mutant("loading.py", "    use_compile_cache()", "    pass", "run/test_command_line.py"),
    Mutant("data/__init__.py", "data.validation_seed)", "0)", VALIDATION + "seed_of_a_config"),
    Mutant(
        "data/__init__.py",
        "np.cumsum(sizes[rows]) - sizes[rows]",
        "sizes[rows].mean() * np.arange(len(rows))",
        VALIDATION + "share_of_examples",
    ),
    Mutant("evaluation/samples.py", "fit_judge(train)", "fit_judge(test)", COUNTED),
    Mutant(
        "evaluation/representation.py",
        'train.images, noise="train"',
        "train.images",
        "test_representation.py -k noise_of_their_own",
    ),
    Mutant("train.py", 'totals["eval"]', '0 * totals["eval"]', "test_train.py -k minute_longer"),
    Mutant(
        "interpolation.py",
        "(great_circle(jnp.asarray(noise)",
        "(straight_line(jnp.asarray(noise)",
        MODEL + "great_circles",
    ),
    Mutant(
        "interpolation.py",
        "else great_circle(",
        "else straight_line(",
        MODEL + "great_circles",
    ),
    Mutant("modes/compile.py", "share = 100 *", "share =", COMPILATION + "percent"),
    Mutant("evaluation/texts.py", ".digit >= 0", ".digit > 0", DIGIT_CAPTIONS + "prior"),
    Mutant(
        "evaluation/texts.py",
        "measured(test.images)",
        "measured(images)",
        DIGIT_CAPTIONS + "asked",
    ),
    Mutant(
        "data_types/property.py",
        "(samples - self._centre)",
        "(self._centre - samples)",
        "data_types/test_property.py -k reads",
    ),
    Mutant(
        "data_types/property.py",
        "predicted - self._unit * batch",
        "predicted - batch",
        "data_types/test_property.py -k squared_error",
    ),
    Mutant(
        "evaluation/classification.py",
        "0.0, among=no_context",
        "0.0",
        "test_classification.py -k without_a_look",
    ),
    Mutant(
        "latent_space.py",
        "jnp.logical_and, present",
        "jnp.logical_or, present",
        SPACE + "pair_is_present",
    ),
    Mutant("parts.py", "taken.file != file", "taken.file == ''", PARTS + "is_taken"),
    Mutant(
        "parts.py",
        'failure(f"the extension {extension}", error, str(path))',
        "error",
        PARTS + "fails",
    ),
    Mutant("parts.py", 'return list(folder.rglob("*.py"))', "return files", PARTS + "package"),
    Mutant("configuration.py", "if loaded is None:", "if not path:", PARTS + "names_its"),
    Mutant(
        "configuration.py",
        "if name in _as_fields({}):",
        "if not name:",
        PARTS + "no_override",
    ),
    Mutant(
        "configuration.py",
        "default=value, optional=is_optional",
        "default=value",
        CONFIGURATION + "optional_field",
    ),
    Mutant(
        "configuration.py",
        'is_there = kind != "type" or part in types',
        "is_there = True",
        CONFIGURATION + "hold_together",
    ),
    Mutant(
        "data_types/parts.py",
        '("resnet",), part="encoder")',
        '("resnet",))',
        CONFIGURATION + "hold_together",
    ),
    Mutant(
        "data/parts.py",
        "Field, int, from_data=True)",
        "Field, int)",
        CONFIGURATION + "another_data_set",
    ),
    Mutant("run/workdir.py", '    "extension_checksums",\n', "", PARTS + "has_changed"),
    Mutant(
        "demo/answers.py",
        "space.types[main].is_images",
        '"image_size" in self._data',
        ANSWERS + "numbers_and_labels",
    ),
    Mutant("zoning/alignment.py", "enumerate(weights, 1)", "enumerate(weights)", SHARP + "closed"),
    Mutant("zoning/alignment.py", "self.first : last + 1", "last : last + 1", SHARP + "closed"),
    Mutant("zoning/alignment.py", "weight / sum(weights)", "weight", SHARP + "closed"),
    Mutant("zoning/solvers.py", "np.diff(r) <= 0", "np.diff(r) < 0", SHARP + "bad_settings"),
    Mutant("zoning/plain.py", "log_w[1:, jnp", "log_w[:-1, jnp", SHARP + "plain_form"),
    Mutant(
        "latent_space.py",
        "setting.sharpness_weights}",
        "()}",
        JOINT + "outside_the_zone",
    ),
    Mutant("losses/parts.py", "low < high for", "low <= high for", CONFIGURATION + "sharpness"),
    Mutant(
        "losses/contrastive.py",
        "is_partner & decoupled",
        "is_partner & False",
        CONTRASTIVE + "loop_over_pairs",
    ),
    Mutant(
        "losses/contrastive.py",
        "second) / temperature + bias",
        "second) / temperature",
        CONTRASTIVE + "siglip",
    ),
    Mutant(
        "losses/contrastive.py",
        "jnp.where(both, losses, 0)",
        "jnp.where(present, losses, 0)",
        CONTRASTIVE + "not_present",
    ),
    Mutant(
        "decoders/flow.py",
        'batch["images"]), self.drop_condition(condition, key)',
        'batch["images"]), condition',
        "data_types/test_mean_flow_decoder.py -k dropped",
    ),
    Mutant(
        "run/devices.py",
        '"microbatch_size", "queries")',
        '"microbatch_size")',
        "run/test_sharding.py -k idle",
    ),
    Mutant(
        "losses/sets.py",
        "(patches(x), patches(y))",
        "(patches(y), patches(x))",
        ENERGY + "generated_images_first",
    ),
    Mutant("losses/sets.py", "repelled * weighted[0]", "weighted[0]", DRIFT + "definition"),
    Mutant("losses/sets.py", "log_weights) / 2)", "log_weights))", DRIFT + "definition"),
    Mutant("losses/sets.py", "(scale - 1) * others", "scale * others", DRIFT + "guid"),
    Mutant(
        "losses/sets.py",
        "jnp.where(is_same, each, _EXC",
        "jnp.where(True, each, _EXC",
        DRIFT + "guid",
    ),
    Mutant(
        "losses/sets.py",
        "is_same.astype(to_y.dtype)",
        "jnp.ones_like(is_same, to_y.dtype)",
        DRIFT + "guid",
    ),
    Mutant("decoders/flow.py", "minval=least)", "minval=0.0)", ALONE + "guided_loss"),
    Mutant(
        "decoders/flow.py",
        "jnp.asarray(self.config.sampling.guidance)",
        "jnp.ones(())",
        ALONE + "scale_of_sampling",
    ),
    Mutant(
        "decoders/flow.py",
        "jnp.all(beside[:, None] == beside, axis=-1)",
        "jnp.any(beside[:, None] == beside, axis=-1)",
        ALONE + "guided_loss",
    ),
    Mutant("losses/sets.py", "jnp.where(is_itself, jnp.inf,", "jnp.where(False,", DRIFT + "draws"),
    Mutant("losses/sets.py", "targets += field", "targets = fixed_x + field", DRIFT + "sum_of"),
    Mutant("run/log.py", "1 / seconds / self._peak", "seconds / self._peak", PROGRESS + "wait"),
    Mutant(
        "release/shared_model.py", "and not names >= _OWN_FILES", "and False", SHARING + "uploaded"
    ),
    Mutant("release/shared_model.py", "not there.private", "there.private", SHARING + "uploaded"),
    Mutant(
        "release/shared_model.py", "return verified(folder)", "return folder", SHARING + "damaged"
    ),
    Mutant("release/shared_model.py", "hub.forget(folder / name)", "name", SHARING + "damaged"),
    Mutant(
        "release/shared_model.py",
        "[SUMMARY_FILE, TOKENIZER_FILE, *PICTURES]",
        "[]",
        SHARING + "sharing_again",
    ),
    Mutant(
        "release/shared_model.py",
        " {tuple(arrays[name].shape)}",
        "",
        SHARING + "do_not_fit",
    ),
    Mutant(
        "release/shared_model.py",
        'value.count("/") > 1',
        'value.count("/") > 0',
        SHARING + "last_name",
    ),
    Mutant("run/log.py", "(in_data - earlier_data)", "in_data", PROGRESS + "wait"),
    Mutant("run/costs.py", "max(known, key=len)", "min(known, key=len)", PROGRESS + "peak"),
    Mutant("inference.py", "if context is None:", "if True:", EXPORTED),
    Mutant(
        "modes/export.py",
        '"index": inputs["index"]}',
        '"index": 0 * inputs["index"]}',
        EXPORTED,
    ),
    Mutant("modes/export.py", '"noise_scale", scale)', '"noise_scale", 0.5)', EXPORTED),
    Mutant("modes/export.py", '("cpu", "cuda", "tpu")', '("cpu", "tpu")', EXPORT + "lowered"),
    Mutant("modes/export.py", "_LOCATIONS, 0)", "_LOCATIONS, 9)", EXPORT + "lowered"),
    Mutant(
        "modes/export.py",
        "(path.name in own and",
        "(path.name in {*own, 'notes.txt'} and",
        REPLACED,
    ),
    Mutant("modes/export.py", "if previous.exists() and", "if False and", EXPORT + "interrupted"),
    Mutant("modes/export.py", " or folder.is_symlink():", ":", EXPORT + "link_to"),
    Mutant(
        "modes/export.py",
        "_check_own(folder)\n        if folder",
        "if folder",
        EXPORT + "changes_during",
    ),
    Mutant("modes/export.py", "not processes.is_writer()", "False", EXPORT + "one_process"),
    Mutant(
        "modes/export.py",
        "scale = trained.config.latent.noise_scale if",
        "scale = 1.0 if",
        EXPORT + "noise_scale",
    ),
    Mutant("modes/export.py", "update(_LOCATIONS, limit)", "_read", EXPORT + "locations"),
    Mutant("share.py", "workdir, model, source)", "workdir, model, '')", SHARING + "from_the_hub"),
    Mutant("configuration.py", "len(names) != len(digests)", "False", MODEL + "no_run"),
    Mutant("parts.py", 'len(text).to_bytes(8, "big") + text', "text", PARTS + "borders"),
    Mutant("parts.py", "digest if digest in digests else next", "next", PARTS + "one_name"),
)


def first_failure(folder: Path, tests: str) -> str | None:
    """The first test of a selection that fails; None if none does."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "--tb=no"]
    command += shlex.split(f"tests/{tests}")
    place: Any = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder)}}
    try:
        run = subprocess.run(command, **place, capture_output=True, text=True, timeout=A_RUN)
    except subprocess.TimeoutExpired:
        return f"{A_RUN} s"
    failed = re.search(r"^FAILED tests/(\S+::\w+)", run.stdout, re.MULTILINE)
    if run.returncode != 0 and not failed:
        raise SystemExit(f"{tests} did not run:\n{run.stdout}{run.stderr}")
    return failed and failed[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants with this in one of their fields")
    parser.add_argument("--list", action="store_true", help="show them and run nothing")
    arguments = parser.parse_args()
    mutants = [m for m in MUTANTS if any(arguments.only in field for field in m)]
    if arguments.list:
        print(*("  |  ".join(mutant) for mutant in mutants), sep="\n")
        return
    died = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cp", "-r", *COPIED, name], cwd=ROOT, check=True)
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if failed := first_failure(folder, tests):
                raise SystemExit(f"{failed} fails without a mutant")
        for mutant in mutants:
            path, began = folder / "lzn_jax" / mutant.file, time.monotonic()
            whole = path.read_text()
            path.write_text(mutant.applied(whole))
            killer = first_failure(folder, mutant.tests)
            path.write_text(whole)
            died += killer is not None
            seconds = f"{time.monotonic() - began:3.0f} s"
            print(seconds, *mutant[:3], killer or "SURVIVED", sep="  |  ", flush=True)
    print(f"{died} of {len(mutants)} mutants died")
    sys.exit(died < len(mutants))


if __name__ == "__main__":
    main()
