"""Every question to an accelerator has its answer under the torch that a WebUI pins."""

from __future__ import annotations

import json
import os
import subprocess

from .accelerator_answers import CUDA, OTHERS, expected
from .conftest import REPOSITORY
from .hosts import Host


def test_every_question_has_an_answer_about_every_kind_of_device(webui_host: Host) -> None:
    ran = subprocess.run(
        [webui_host.python(), "-m", "tests.webui.accelerator_answers"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["answers"] == {kind: expected(kind) for kind in (*CUDA, *OTHERS)}, found["torch"]
