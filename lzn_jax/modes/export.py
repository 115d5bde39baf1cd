"""--mode=export: writes the tasks of a run as StableHLO, for use without this package."""

import functools
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array

from lzn_jax import files, inference
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError
from lzn_jax.files import by_name, parse_json
from lzn_jax.latent_space import LatentSpace
from lzn_jax.loading import MANIFEST
from lzn_jax.models import Tree
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")
_LOCATIONS = "jax_traceback_in_locations_limit"
_SCALARS = {"seed": jnp.uint32, "noise_scale": jnp.float32}

Inputs = Mapping[str, Tree]


class Program(NamedTuple):
    """A task as the pure function `function(model, inputs) -> outputs by name`.

    Attributes:
      description: what it computes, in words.
      function: the task.
      rows: shape and dtype of one row of each input with a batch axis.
      scalars: defaults of the other inputs, `seed` and `noise_scale`.
      batch_size: the only batch size, if rows depend on each other; None: any.
    """

    description: str
    function: Callable[[Model, Inputs], dict[str, Array]]
    rows: dict[str, jax.ShapeDtypeStruct]
    scalars: dict[str, float]
    batch_size: int | None


def programs(trained: TrainedModel) -> dict[str, Program]:
    """Programs of all tasks that the run supports, by name."""
    space, main, class_type = trained.space, trained.main_type, trained.class_type
    plural = {name: each.plural for name, each in space.types.items()}
    made = {}
    for name in space.encoders:
        scale = trained.config.latent.noise_scale
        made[f"encode_{name}"] = _program(trained, f"latents of {plural[name]}", name, None, scale)
    if hasattr(space.encoders.get(main), "features"):
        embed = functools.partial(_embed, space, source=main)
        rows = {space.types[main].output: space.types[main].encoded_shape()}
        made[f"embed_{main}"] = Program(f"features of {plural[main]}", embed, rows, {}, None)
    for source, target in trained.translations:
        if target == class_type:
            what = f"classes of {plural[source]} at the centres of their zones"
            made[f"classify_{source}"] = _program(trained, what, source, target, None)
        what, scale = f"{plural[target]} of {plural[source]}", trained.default_scale(source, target)
        made[f"translate_{source}_{target}"] = _program(trained, what, source, target, scale)
    for name in space.decoders:
        given = class_type if name == main else None
        what = f"{plural[name]} of {plural[given] if given else 'the prior'}"
        scale = trained.default_scale(given, name) if given else 1.0
        made[f"sample_{name}"] = _program(trained, what, given, name, scale, is_scaled=False)
    return made


def _program(
    trained: TrainedModel,
    description: str,
    source: str | None,
    target: str | None,
    noise_scale: float | None,
    is_scaled: bool = True,
) -> Program:
    """Program that computes latents of a source, or a translation unless the target is None.

    `noise_scale` is α. If `is_scaled` is set, it is the default of an input. None means 0, where
    nothing is drawn.
    """
    space, rows, scalars, batch_size = trained.space, {}, {}, None
    if source is not None:
        data_type = space.types[source]
        rows[data_type.output] = data_type.encoded_shape()
        if inference.cuts_zones(space, trained.model, source):
            batch_size = trained.config.training.batch_size
    if noise_scale is not None:
        rows["index"], scalars["seed"] = jax.ShapeDtypeStruct((), jnp.int32), trained.config.seed
        if is_scaled:
            scalars["noise_scale"] = noise_scale
    function = functools.partial(
        _translate, space, source=source, target=target, scale=noise_scale or 0.0
    )
    return Program(description, function, rows, scalars, batch_size)


def _embed(space: LatentSpace, model: Model, inputs: Inputs, source: str) -> dict[str, Array]:
    samples = inputs[space.types[source].output]
    return inference.features(space, model.variables, samples, source)


def _translate(
    space: LatentSpace,
    model: Model,
    inputs: Inputs,
    source: str | None,
    target: str | None,
    scale: float,
) -> dict[str, Array]:
    request = dict(inputs)
    if source is not None:
        request["samples"] = inputs[space.types[source].output]
        request.setdefault("index", jnp.zeros(len(request["samples"]), int))  # nothing is drawn
    key, scale = jax.random.key(inputs.get("seed", 0)), inputs.get("noise_scale", scale)
    if target is None:
        assert source is not None
        return {"latents": inference.encode(space, model, key, scale, request, source)}
    made = inference.translate(space, model, key, scale, request, source, target)
    output = space.types[target].output
    return {output: made[output]} if target in space.decoders else made


def exported_program(program: Program, model: Model) -> jax_export.Exported:
    """The program lowered for `PLATFORMS`, with a symbolic batch size if rows are independent.

    Raises NotImplementedError or ValueError for programs that JAX cannot export, such as Python
    callbacks.
    """
    structure = jax.tree.structure(model)
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in by_name(model).items()}

    def call(tensors: Mapping[str, Array], **inputs: Array) -> dict[str, Array]:
        weights = jax.tree.unflatten(structure, [tensors[name] for name in shapes])
        if program.batch_size is not None:
            return program.function(weights, inputs)
        scalars = {name: inputs[name] for name in program.scalars}

        # One row at a time, since functions may need the size of the batch as a number.
        def one(rows: Mapping[str, Array]) -> dict[str, Array]:
            batch = jax.tree.map(lambda a: a[None], rows)
            outputs = program.function(weights, {**batch, **scalars})
            return jax.tree.map(lambda a: a[0], outputs)

        return jax.vmap(one)({name: inputs[name] for name in program.rows})

    (symbol,) = jax_export.symbolic_shape("b")
    size = program.batch_size or symbol
    inputs = {
        name: jax.ShapeDtypeStruct((size, *row.shape), row.dtype)
        for name, row in program.rows.items()
    } | {name: jax.ShapeDtypeStruct((), _SCALARS[name]) for name in program.scalars}
    limit = getattr(jax.config, _LOCATIONS)
    try:  # programs without paths of source files, which name folders of the user
        jax.config.update(_LOCATIONS, 0)
        return jax_export.export(jax.jit(call), platforms=PLATFORMS)(shapes, **inputs)
    finally:
        jax.config.update(_LOCATIONS, limit)


WEIGHTS = "weights.safetensors"
MADE_BY = "lzn_jax --mode=export"
_PARTIAL = ".export.partial"  # folder of an export under way

_log = logging.getLogger(__name__)


def export(trained: TrainedModel, workdir: Path) -> None:
    """Writes `export/`: a program for each task, their weights and a manifest.

    Raises UserError if `export/` contains files that this mode did not write, and if no task of the
    run can be exported. An earlier export then stays unchanged.
    """
    folder, partial = workdir / "export", workdir / _PARTIAL
    _check_own(folder)
    tensors = devices.fetch(files.by_name(trained.model))
    if not files.is_writer():
        return
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted export
    partial.mkdir()
    try:
        files.write_tensors(partial / WEIGHTS, tensors)
        manifest = _manifest(trained) | _write_programs(trained, partial)
        names = [MANIFEST, *(path.name for path in partial.iterdir())]
        files.write_json(partial / MANIFEST, manifest | {"files": sorted(names)})
        _check_own(folder)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("%s: programs with their inputs and outputs", folder / MANIFEST)


def _check_own(folder: Path) -> None:
    """Raises UserError if the folder is a link or contains files that no export wrote."""
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        manifest = parse_json((folder / MANIFEST).read_text())
        own = set(manifest["files"]) if manifest["made_by"] == MADE_BY else set()
        others = sorted(p.name for p in folder.iterdir() if not (p.name in own and p.is_file()))
    except (OSError, ValueError, KeyError, TypeError):
        others = ["no manifest"]
    if others or folder.is_symlink():
        found = ", ".join(others) or "the files of another folder"
        raise UserError(f"{folder} holds {found}, not written by --mode=export: move it away")


def _manifest(trained: TrainedModel) -> dict[str, object]:
    types = {name: each.sample_format() for name, each in trained.space.types.items()}
    for name, each in types.items():
        if "vocabulary" in each:
            each["vocabulary"] = f"{name}_vocabulary.json"
    return {
        "made_by": MADE_BY,
        "jax": jax.__version__,
        "run": repr(trained),
        "step": trained.step,
        "platforms": PLATFORMS,
        "weights": WEIGHTS,
        "types": types,
    }


def _write_programs(trained: TrainedModel, folder: Path) -> dict[str, object]:
    """Writes programs and vocabularies. Returns the programs' part of the manifest."""
    for name, each in trained.space.types.items():
        if vocabulary := each.sample_format().get("vocabulary"):
            files.write_json(folder / f"{name}_vocabulary.json", vocabulary)
    written: dict[str, object] = {}
    left_out: dict[str, str] = {}
    for name, program in programs(trained).items():
        start = time.monotonic()
        try:
            exported = exported_program(program, trained.model)
            content = bytes(exported.serialize())
        except (NotImplementedError, ValueError) as error:  # such as a callback of a user's part
            left_out[name] = " ".join(str(error).split())[:200]
            _log.warning("%s is left out, as JAX cannot export it: %s", name, left_out[name])
            continue
        file = f"{name}.stablehlo"
        files.write_bytes(folder / file, content)
        written[name] = {"file": file, "bytes": len(content), **_described(program, exported)}
        seconds = time.monotonic() - start
        _log.info("export/%s: %.1f s, %.0f kB", file, seconds, len(content) / 1000)
    if not written:
        raise UserError(f"{trained!r} has no task that can be exported")
    return {"programs": written, "left_out": left_out}


def _described(program: Program, exported: jax.export.Exported) -> dict[str, object]:
    """Inputs and outputs of a program for the manifest. A batch axis of any size is "b"."""
    _, inputs = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    defaults = {name: {"default": value} for name, value in program.scalars.items()}
    return {
        "computes": program.description,
        "batch_size": program.batch_size or "any",
        "platforms": exported.platforms,
        "inputs": {name: _array(a) | defaults.get(name, {}) for name, a in inputs.items()},
        "outputs": {name: _array(a) for name, a in outputs.items()},
    }


def _array(a: jax.ShapeDtypeStruct | jax.core.ShapedArray) -> dict[str, object]:
    shape = [size if isinstance(size, int) else str(size) for size in a.shape]
    return {"dtype": a.dtype.name, "shape": shape}
