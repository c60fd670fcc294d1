"""How long tracking waits for MLflow, and how often it asks, in seconds. No environment variable sets one of them."""

from __future__ import annotations

CONNECT_SECONDS = 2.0
"""How long a store may take to accept a connection."""
FILE_SECONDS = 600
"""How long a server may take to answer a request for a file.

A server that keeps artifacts in a bucket answers an upload once the bucket has the whole file, and a download once the
server has the whole file (`_upload_artifact` and `_download_artifact` in mlflow/server/handlers.py, 3.17.2). An adapter
of r 64 for a base of 70 billion parameters has 3.3 GB.
"""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
"""Pauses before an event is sent again. Each pause is twice as long as the one before."""
PATIENCE_SECONDS = 3.0
"""How long a drain waits before a message says so."""
NOTE_SECONDS = 0.5
"""Shortest time between two notes of the offset in the folder. The next event waits until a note is on disk."""
UI_START_SECONDS = 120.0
"""How long MLflow's own server may take to answer; on an idle machine it takes about 5."""
UI_END_SECONDS = 3.0
"""How long MLflow's own server may take to end before it is killed."""
