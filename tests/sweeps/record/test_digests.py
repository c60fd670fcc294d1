"""Digests of an adapter's files, from memory and from disk."""

from __future__ import annotations

import hashlib

from sweeps.record import digests

FILES = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}", "more/rows.json": b"[1]"}


def test_a_folder_has_the_digest_of_its_files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert digests.of_folder(tmp_path) == digests.of_files(FILES) == digests.of_files(digests.read(tmp_path))
    assert digests.of_file(tmp_path / "adapter_config.json") == hashlib.sha256(b"{}").hexdigest()
    (tmp_path / "adapter_config.json").write_bytes(b"{ }")
    assert digests.of_folder(tmp_path) != digests.of_files(FILES)


def test_no_folder_has_the_digest_of_no_files(tmp_path):
    assert digests.of_folder(tmp_path / "none") == digests.of_files({})
