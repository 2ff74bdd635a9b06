"""Makes the library importable as `sae`. At the end of the path, where its neighbour `nodes` shadows nothing."""

import sys

from project_files import ROOT

sys.path.append(str(ROOT))
