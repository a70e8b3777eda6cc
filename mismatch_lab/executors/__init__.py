"""Executors: where workers run. `local` starts them as processes on this machine."""
