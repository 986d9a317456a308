"""How this process was started: alone, or by torchrun as one of several that train together."""

import os
from dataclasses import dataclass
from datetime import timedelta

_STORE_SECONDS = 5.0  # to wait for torchrun's store before a failure is told regardless


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among those that torchrun started, on one machine or several."""

    rank: int = 0  # among all
    size: int = 1  # how many there are
    local_rank: int = 0  # among those of this machine

    @property
    def first(self) -> bool:
        """Whether this is the one process that speaks, tracks and writes."""
        return self.rank == 0


def process_group() -> ProcessGroup:
    """What torchrun says; without it, the only process there is.

    A cluster may set RANK and WORLD_SIZE for whoever wants them: without torchrun they mean nothing here.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ProcessGroup()
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return ProcessGroup(rank, size, local_rank)


def first_to_fail() -> bool:
    """Whether no other process of this job failed before, so that a failure is told once.

    All meet a missing dataset, and one that meets a damaged image takes the others with it. Asked of
    torchrun's store, which outlives its processes; where that is gone as well, the failure is told.
    """
    if process_group().size == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_STORE_SECONDS),
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"dbrnet failed {attempt}", 1) == 1)
    except RuntimeError:
        return True
