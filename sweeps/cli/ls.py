"""`qsweep ls`."""

from __future__ import annotations


def ls() -> None:
    """List recipes, search spaces, trainables, schedulers, searchers and graders."""
    import search_spaces
    from sweeps.config import components, load
    from trainables import catalogue
    from trainables.grading.catalogue import GRADERS

    groups = {
        "recipes": load.recipes(),
        "search spaces": search_spaces.available(),
        "trainables": catalogue.available(),
        "schedulers": components.available("schedulers"),
        "searchers": components.available("searchers"),
        "graders": {name: (grader.__doc__ or "").split("\n")[0] for name, grader in GRADERS.items()},
    }
    for title, members in groups.items():
        print(title)
        for name, line in members.items():
            print(f"  {name:20} {line}")
