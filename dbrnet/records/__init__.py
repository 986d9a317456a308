"""What the steps hand to each other: a typed, versioned record for each JSON file that a step writes.

Whoever reads a step's file loads its record; the files' keys are known here alone. Fractions are stored as
fractions, from 0 to 1; `Estimate` and `format_value` write them for people.
"""

from dbrnet.records.base import *  # noqa: F403
from dbrnet.records.decisions import *  # noqa: F403
from dbrnet.records.lineage import *  # noqa: F403
from dbrnet.records.results import *  # noqa: F403
