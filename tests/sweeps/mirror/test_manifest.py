"""What a manifest may say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sweeps.mirror.manifest import Stored, TrialFiles


@pytest.mark.parametrize("path", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/"])
def test_a_manifest_names_only_files_below_the_folder(path):
    with pytest.raises(ValidationError, match="below the sweep's folder"):
        TrialFiles(files={path: Stored(object="objects/1/1/a", size=1, sha256="0")})
