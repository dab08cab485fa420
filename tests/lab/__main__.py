# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Command line of the lab: ``python3 tests/lab COMMAND``."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# Run as a folder, Python puts that folder first; the package is to be found by its name from the folder above.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _HERE]
sys.path.insert(0, str(_HERE.parent))

if sys.version_info < (3, 11):  # noqa: UP036  (whoever has an older one should read a sentence, not a traceback)
    sys.exit("lab: Python 3.11 or newer is needed, this is " + sys.version.split()[0])

from lab.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
