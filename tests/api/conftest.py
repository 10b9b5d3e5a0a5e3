"""For `from made import …`: segment files are made in the same way for the indexer's tests and the api's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "indexer"))
