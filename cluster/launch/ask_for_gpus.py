"""Asks a cluster's autoscaler for GPUs and waits until they are there; 0 gives back those that are idle.

It runs on the head node: python -m cluster.launch.ask_for_gpus COUNT. The request holds until the next one.
"""

from __future__ import annotations

import argparse
import threading

import ray
from ray.autoscaler.sdk import request_resources

from cluster import timeouts


def main() -> None:
    """Asks, then says how many GPUs there are until the wanted number is reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, help="GPUs that the cluster shall have at least")
    count = parser.parse_args().count
    if count < 0:
        parser.error(f"count: {count} must be 0 or more")
    ray.init(address="auto", log_to_driver=False)
    request_resources(bundles=[{"GPU": 1}] * count)
    while (there := int(ray.cluster_resources().get("GPU", 0))) < count:
        print(f"{there} of {count} GPUs are there", flush=True)
        threading.Event().wait(timeouts.ASK_FOR_GPUS_SECONDS)
    print(f"asked for {count} GPUs; {there} are there")


if __name__ == "__main__":
    main()
