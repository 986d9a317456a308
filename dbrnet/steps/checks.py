"""What several steps check or open in the same way: the runtimes, the champion and the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.inference.runtimes import open_all, open_fitting
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.records import MODEL_FILE, ChampionFacts, ChampionRecord, ExportRecord


@dataclass(frozen=True)
class Champion:
    """The champion's model; None where this machine does not run it, for the reason in `facts`."""

    facts: ChampionFacts
    model: Model | None


def open_runtimes(
    export: ExportRecord, trained: Path, exported: Path, *, threads: int | None = None, beside: Sequence[str] = ()
) -> tuple[dict[str, Model], dict[str, str]]:
    """The candidate in export.runtimes, after those `beside`, and for each that this machine lacks the reason.

    Raises `UserError` where the deployed one is missing.
    """
    models, missing = open_all([*beside, *export.runtimes], trained, exported, threads)
    if export.deployed in missing:
        reason = missing[export.deployed]
        raise UserError(f"{reason}; it is the first of export.runtimes, which runs in production")
    return models, missing


def open_champion(
    folder: Path, runtime: str, *, threads: int | None = None, classes: Sequence[ClassInfo] | None = None
) -> Champion | None:
    """The champion in `runtime`, or where that does not take its file in another; None: there is none yet.

    A champion of other classes than `classes` is not compared.
    """
    record = ChampionRecord.load(folder)
    if record.version is None or record.sha256 is None:
        return None
    try:
        model = open_fitting(folder / MODEL_FILE, runtime, threads)
        difference = None if classes is None else class_difference(model.classes, classes, "the dataset")
        reason = f"it {difference}" if difference else None
    except NotAvailableError as error:
        reason = str(error)
    facts = ChampionFacts(version=record.version, sha256=record.sha256, not_compared=reason)
    return Champion(facts, None if reason else model)


def class_difference(known: Sequence[ClassInfo], present: Sequence[ClassInfo], place: str) -> str | None:
    """Such as "knows the classes a, b, and PLACE has a, c"; None where the names are the same."""
    own, others = ([info.name for info in classes] for classes in (known, present))
    return None if own == others else f"knows the classes {', '.join(own)}, and {place} has {', '.join(others)}"
