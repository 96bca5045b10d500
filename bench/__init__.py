"""Benches: the speed of the library on this machine, as ratios within one run, and what is measured once for a page. `python -m bench NAME`."""
