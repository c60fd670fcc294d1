"""Graders, which score generated answers. `evaluation.metrics` names them."""
