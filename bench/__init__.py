"""Benches: the speed of the library on this machine, as ratios within one run. `python -m bench NAME`."""
