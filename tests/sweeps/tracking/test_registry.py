"""What is told where MLflow's registry refuses."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException

from sweeps.errors import SweepError
from sweeps.tracking.registry import Registry


def test_a_registry_that_refuses_without_a_word_is_told():
    registry = Registry("http://127.0.0.1:1")
    refuses = Mock(side_effect=MlflowException(""))
    registry._client = Mock(get_model_version=refuses, get_registered_model=refuses)
    with pytest.raises(SweepError, match=r"^m: no version 7: MlflowException; qsweep models --model m lists them$"):
        registry.version("m", "7")
    with pytest.raises(SweepError, match=r"^--model: 'm': MlflowException$"):
        registry.model("m")
