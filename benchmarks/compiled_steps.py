"""Full-scale steps by the compilers of TPUs and GPUs: estimated time and memory.

    python benchmarks/compiled_steps.py FOLDER [--rows=NAME,...] [--flax]

Compiles the rows that FOLDER lacks, one after another, and prints the table of docs/compiled.md
from all that are there. Compiles run for minutes to an hour. --flax compiles them with flax's group
normalisation, for a table of both.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
LOW_EFFORT = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0"}


class Row(NamedTuple):
    """A step to compile: config, slice, flags, and whether the compiler does less.

    At low effort memory is known, but not time.
    """

    config: str
    slice: str
    flags: tuple[str, ...] = ()
    low_effort: bool = False


def _at_a_time(images: int | None) -> str:
    return f"--config.training.microbatch_size={images}"


_TOKENS = "--config.data.tokenizer_path=tokenizer.json"
_256_PIXELS = (
    "--config.data.image_size=256",
    "--config.encoder.stem=imagenet",
    "--config.decoder.patch_size=4",
)
# One block a level, as compiles of whole networks at full effort take more than an hour.
_ONE_BLOCK = (
    "--config.encoder.stage_sizes=(1,1,1,1)",
    "--config.decoder.num_res_blocks=1",
    "--config.text_encoder.num_layers=2",
    "--config.text_decoder.num_layers=2",
)
_BFLOAT16 = "--config.training.compute_dtype=bfloat16"
ROWS = {
    "imagenet_repr": Row("imagenet_repr", "v5e:16x16", (_at_a_time(None),)),
    "cifar10_gen": Row("cifar10_gen", "v5e:4x4", (_at_a_time(400),)),
    "cifar10_joint": Row("cifar10_joint", "v5e:4x4", (_at_a_time(400),)),
    "cifar10_joint_bfloat16": Row("cifar10_joint", "v5e:4x4", (_BFLOAT16,)),
    "cifar10_alone": Row("cifar10_alone", "v5e:4x4"),
    "image_text": Row("image_text", "v5e:4x4", (_TOKENS,), low_effort=True),
    "image_text_256": Row("image_text", "v5e:4x4", (_TOKENS, *_256_PIXELS), low_effort=True),
    "afhq_cat_gen": Row("afhq_cat_gen", "v5e:4x4", (_at_a_time(16),), low_effort=True),
    "image_text_one_block": Row("image_text", "v5e:4x4", (_TOKENS, *_ONE_BLOCK)),
    "afhq_cat_gen_one_block": Row(
        "afhq_cat_gen",
        "v5e:4x4",
        (
            _at_a_time(16),
            "--config.encoder.num_res_blocks=1",
            "--config.decoder.num_res_blocks=1",
        ),
    ),
    "imagenet_repr_gpu": Row("imagenet_repr", "h100:1", (_at_a_time(128),)),
    "cifar10_joint_gpu": Row("cifar10_joint", "h100:1", (_at_a_time(200),)),
    "cifar10_alone_gpu": Row("cifar10_alone", "h100:1", (_at_a_time(400),)),
    "image_text_gpu": Row("image_text", "h100:1", (_at_a_time(64), _TOKENS)),
    "afhq_cat_gen_gpu": Row("afhq_cat_gen", "h100:1", (_at_a_time(8),)),
}
COLUMNS = ("images at a time", "operations", "state", "temporaries", "seconds", "share of the peak")


def compile_row(row: Row, path: Path, flax: bool) -> None:
    """Writes the report of `--mode=compile`; only a report that ends is kept."""
    command = [sys.executable, "-m", "lzn_jax.main", f"--config=configs/{row.config}.py"]
    command += ["--mode=compile", f"--slice={row.slice}", *row.flags]
    if flax:
        command.append(f"--extensions={HERE / 'flax_norm.py'}")
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    # The extension imports a module beside it.
    path_of_modules = os.pathsep.join([os.getcwd(), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path_of_modules}
    environment |= LOW_EFFORT if row.low_effort else {}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if "fits: " in run.stdout:
        path.write_text(run.stdout)


def facts(path: Path) -> dict[str, str]:
    """A report by the names of its lines."""
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


def cells(report: dict[str, str], low_effort: bool) -> list[str]:
    """The columns of a row."""
    batch, _, parts = report["batch"].partition(" in micro-batches of ")
    clock, exact = "seconds per update, compiler's estimate", "≈"
    if clock not in report:
        clock, exact = "seconds per update, lower bound", "≥"
    seconds, *_, share = report.get(clock, "-, -").split(", ")
    if low_effort:
        exact, seconds, share = "", "-", "low effort"
    return [
        parts or batch.removesuffix(" images"),
        report["operations"].split()[0],
        report["memory per chip, state and batch"],
        report["memory per chip, temporaries"],
        f"{exact} {seconds}".strip(),
        share.removesuffix(" of the bfloat16 peak"),
    ]


def parts_of(report: dict[str, str]) -> str:
    """The four parts that take most."""
    names = [name for name in report if name.startswith("estimate, ") and name != "estimate, all"]
    shares = (report[name].split(": ")[0].split(", ")[1] for name in names[:4])
    shown = (
        f"{name.removeprefix('estimate, ')} {s}" for name, s in zip(names, shares, strict=False)
    )
    return ", ".join(shown)


def print_tables(folder: Path) -> None:
    """The tables of all rows that are there, in Markdown."""
    print("| config | slice |", " | ".join(COLUMNS), "| parts |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, row in ROWS.items():
        for ending, marked in ((".txt", ""), (".flax.txt", ", flax's normalisation")):
            path = folder / f"{name}{ending}"
            if path.exists():
                report = facts(path)
                columns = " | ".join(cells(report, row.low_effort))
                print(f"| `{name}`{marked} | `{row.slice}` | {columns} | {parts_of(report)} |")


def main() -> None:
    """Compiles what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS), help="names, separated by commas")
    parser.add_argument("--flax", action="store_true", help="with flax's normalisation")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    for name in filter(None, flags.rows.split(",")):
        path = flags.folder / f"{name}{'.flax' if flags.flax else ''}.txt"
        if not path.exists():
            compile_row(ROWS[name], path, flags.flax)
    print_tables(flags.folder)


if __name__ == "__main__":
    main()
