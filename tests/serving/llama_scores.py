"""Prints as JSON what llama.cpp's library makes of rows: a script for the environment that has it.

Its arguments are a GGUF model, a GGUF adapter or "", and a file with rows of tokens as JSON.
"""

import json
import math
import sys
from pathlib import Path

from llama_cpp_py_sync import _cffi_bindings as bindings
from llama_cpp_py_sync.llama import Llama


def main() -> None:
    model, adapter, rows = sys.argv[1:]
    ffi, lib = bindings.get_ffi(), bindings.get_lib()
    llama = Llama(model, n_ctx=128, n_threads=1, type_k="f32", type_v="f32", flash_attn_type=0)
    if adapter:
        lora = lib.llama_adapter_lora_init(llama._model, adapter.encode())
        assert lora != ffi.NULL, "llama.cpp refuses the adapter"
        assert lib.llama_set_adapters_lora(llama._ctx, ffi.new("struct llama_adapter_lora *[]", [lora]), 1, [1.0]) == 0
    print(json.dumps([scored(llama, lib, row) for row in json.loads(Path(rows).read_text())]))


def scored(llama, lib, row: list[int]) -> list[float]:
    """The log-probability of each token but the first."""
    lib.llama_memory_clear(lib.llama_get_memory(llama._ctx), True)
    batch = lib.llama_batch_init(len(row), 0, 1)
    batch.n_tokens = len(row)
    for place, token in enumerate(row):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    assert lib.llama_decode(llama._ctx, batch) == 0
    told = []
    for place, token in enumerate(row[1:]):
        logits = lib.llama_get_logits_ith(llama._ctx, place)[0 : llama.n_vocab]
        logits = list(logits)
        most = max(logits)
        told.append(logits[token] - most - math.log(sum(math.exp(value - most) for value in logits)))
    lib.llama_batch_free(batch)
    return told


if __name__ == "__main__":
    main()
