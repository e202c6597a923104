"""Names of the arrays that drivers, objectives and results pass to each other; genomes are `search_spaces.Genome`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
