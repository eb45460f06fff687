"""How long a finished run's model takes, measured alone: the runs themselves had company."""

from collections.abc import Sequence
from pathlib import Path

from mnv2_tasks.training.run_record import NAME, read_run


def latency_of(folder: Path, trust: Sequence[str]) -> float:
    """Milliseconds an image of a run's model, without decoding, here and now."""
    from mnv2_tasks.assembly.network import load_model
    from mnv2_tasks.complexity import forward_ms

    model, _ = load_model(folder / "checkpoints" / "best.ckpt", trust=trust)
    passes = read_run(folder / NAME).passes or []
    return forward_ms(model, [(tuple(size), tasks) for size, tasks in passes])
