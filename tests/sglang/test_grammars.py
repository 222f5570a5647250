"""SGLang's grammar library takes and refuses what it was found to take and refuse.

``NBRUNTIME_RECORD=1 make test-sglang`` writes the verdicts down anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import sglang_grammars
from support.sglang_grammars import RECORD
from support.sglang_server import PYTHON

pytestmark = pytest.mark.sglang


def test_the_record_of_grammars_is_sglangs(tmp_path: Path) -> None:
    found = tmp_path / "grammars.json"
    shutil.copyfile(RECORD, found)
    subprocess.run(
        [PYTHON, sglang_grammars.__file__, str(found)], check=True, capture_output=True, timeout=120
    )
    if os.environ.get("NBRUNTIME_RECORD"):
        shutil.copyfile(found, RECORD)
    assert json.loads(found.read_text(encoding="utf-8")) == json.loads(RECORD.read_text(encoding="utf-8"))
