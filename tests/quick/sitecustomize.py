"""Python runs this first where PYTHONPATH has this folder: quick renders in the process of an update that renders."""

import sys

if "--render" in sys.orig_argv:
    import quick_renders

    quick_renders.install()
