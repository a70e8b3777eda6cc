"""SGLang's own server, made to run on a CPU. Spawned children import this module again.

Usage, in SGLang's environment: python launch_sglang.py SERVER_ARGUMENT...
"""

from __future__ import annotations

import sys

from mismatch_lab.engines.sglang_cpu import prepare  # in that environment

prepare()

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(sys.argv[1:]))
