"""Emoji: which learning rate, and does it depend on weight decay? Nine runs, a third as long as the quick start.

    python -m launch.sweep configs/sweeps/emoji_lr.py --on local --parallel 2
    python -m launch.sweep configs/sweeps/emoji_lr.py --on slurm --parallel 9 --sbatch=--partition=gpu --chips 1
    python -m bigcl.report --sweep runs/emoji_lr

The file is a config as well: `python -m bigcl.train --config configs/sweeps/emoji_lr.py --workdir runs/one` trains the
run that all others vary.
"""

from configs import emoji


def get_config(arg=None):
    """Arguments: `smoke`."""
    c = emoji.get_config(arg)
    c.train.steps = min(c.train.steps, 180)
    return c


def sweep(add):
    """Every pair of a learning rate and a weight decay."""
    for lr in (3e-3, 1e-2, 3e-2):
        for weight_decay in (0.0, 0.1, 0.3):
            add({"optim.lr": lr, "optim.weight_decay": weight_decay})
