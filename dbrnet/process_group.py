"""How this process was started: alone, or by torchrun as one of several that train together."""

import os
from dataclasses import dataclass
from datetime import timedelta

STORE_SECONDS = 5.0  # to wait for torchrun's store; after it a failure is reported in any case


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that torchrun started, on one machine or several, and this one's place among them."""

    rank: int = 0  # among all processes
    size: int = 1  # number of processes
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1  # number of these

    @property
    def first(self) -> bool:
        """Whether this is the one process that logs, tracks and writes."""
        return self.rank == 0


def process_group() -> ProcessGroup:
    """The group that torchrun's environment variables describe; a single process without torchrun.

    A cluster may set RANK and WORLD_SIZE too. Without torchrun they are ignored.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ProcessGroup()
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
    return ProcessGroup(*(int(os.environ[name]) for name in names))


def first_to_fail() -> bool:
    """Whether no other process of this job failed before, so that a failure is reported once.

    A missing dataset makes all processes fail, and one process that fails takes the others with it. The first is known
    from torchrun's store, which outlives the processes. Where the store is gone too, the failure is reported.
    """
    if process_group().size == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"dbrnet failed {attempt}", 1) == 1)
    except RuntimeError:
        return True
