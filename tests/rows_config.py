"""A config of rows and labels that names a part of each kind, which takes seconds."""

from lzn_jax import configuration


def get_config():
    config = configuration.blank()
    config.extensions = ("rows.py",)
    config.types, config.alignments = ("row", "label"), ("row:label",)
    config.data.name, config.row = "rows", {"context_size": 12}
    config.latent.update(dim=4, solver="own", num_steps=2)
    config.alignment.update(form="own", num_steps=2, cutoff=0.0, noise_scale=None)
    config.training.update(losses=("spread",), optimizer="own", schedule="own")
    config.training.update(batch_size=8, num_steps=2, ema_decay=0.5, warmup_steps=1, devices=1)
    config.evaluation.update(every_steps=2, noise_scales=(), measurements_of_types=False)
    config.evaluation.update(measurements=("own",), figures=("own",))
    return config
