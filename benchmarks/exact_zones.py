"""How exact zones must be: test accuracy of a joint run against the solver of its image latents.

    python benchmarks/exact_zones.py --workdir results/fashion_joint

The networks stay as they were trained; only the flow from anchors to latents (α = 0, context
anchors) is solved anew. Prints the accuracy and the error of the latents, as the median of
|z - exact z| / |exact z|, where exact is DPM-Solver++ with 400 steps.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import lzn_jax
from lzn_jax import studies, zoning
from lzn_jax.run import reporting

EXACT = zoning.DPMSolver(400)
SOLVERS = (
    *(zoning.Euler(steps) for steps in (5, 10, 20, 50, 100, 200)),
    *(zoning.DPMSolver(steps) for steps in (5, 10, 20, 40, 80)),
)


def main() -> None:
    """Solves, classifies and prints a line a solver."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    trained = lzn_jax.load(workdir)
    if trained.config.study != "joint" or not trained.model.context:
        parser.error(f"{workdir} is no joint run with context anchors")
    test = studies.load_data(trained.config)[1]
    anchors = trained.anchors(test.images)
    context = trained.model.context["anchors"]
    nothing = jnp.zeros_like(anchors)

    latents = {}
    with reporting.progress(1 + len(SOLVERS), "solving", unit="solver") as bar:
        for solver in (EXACT, *SOLVERS):
            latents[solver] = np.asarray(
                zoning.latents_in_context(anchors, context, nothing, solver=solver)
            )
            bar.update()
    exact = latents[EXACT]
    for solver, found in latents.items():
        errors = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
        classes = trained.study.predict(trained.model.variables, found)["classes"]
        accuracy = np.mean(np.asarray(classes) == test.labels)
        name = f"{type(solver).__name__}({solver.num_steps})"
        print(f"{name:15s} accuracy {accuracy:.4f}  latents off by {np.median(errors):.4f}")


if __name__ == "__main__":
    main()
