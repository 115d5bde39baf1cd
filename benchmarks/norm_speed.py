"""Seconds of an update on this machine with flax's group normalisation and with ours, in turn.

    python benchmarks/norm_speed.py [--configs digits_joint fashion_repr digits_repr] [--updates 20]

Prints the fastest of five alternating loops of each, without compilation.
"""

from unittest import mock

import shared
from compiled_forms import by_flax
from host_overhead import seconds_of_update

from lzn_jax import configuration
from lzn_jax.models import norm


def main() -> None:
    """Prints a row for each config."""
    parser = shared.parser(__doc__)
    parser.add_argument(
        "--configs", nargs="+", default=["digits_joint", "fashion_repr", "digits_repr"]
    )
    parser.add_argument("--updates", type=int, default=20)
    flags = parser.parse_args()
    print("| config | flax: seconds an update | ours |\n|---|---|---|")
    for name in flags.configs:
        config = configuration.load(f"configs/{name}.py")
        fastest = []
        for form in (by_flax, norm.group_norm) * 5:
            with mock.patch.object(norm, "group_norm", form):
                fastest.append(seconds_of_update(config, flags.updates))
        print(f"| `{name}` | {min(fastest[::2]):.4f} | {min(fastest[1::2]):.4f} |", flush=True)


if __name__ == "__main__":
    main()
