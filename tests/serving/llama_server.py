"""Runs llama.cpp's own server until its input ends: a script for where the package xllamacpp is.

Its arguments are a GGUF model, the name to serve it under, how much of each adapter is applied, and GGUF adapters. It
prints its address when it is ready.
"""

import sys

import xllamacpp


def main() -> None:
    model, name, scale, *adapters = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = model, {name}
    params.port, params.n_parallel, params.cpuparams.n_threads = 0, 1, 1
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, float(scale)) for file in adapters]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
