"""`dbrnet revision`: has the data's source changed?"""

from dbrnet.config import IngestParams
from dbrnet.storage import source


def revision(params: IngestParams) -> str:
    """Print 64 hex digits that stand for what ingest.source holds; others, once it may hold something else.

    Nothing is read but the list of its files. A pipeline that finds them unchanged need not ingest again.
    """
    found = source.revision(params.source)
    print(found)  # noqa: T201
    return found
