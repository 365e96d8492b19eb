"""Show where the time of a run goes: a short training and evaluation, part by part, beside what is possible.

    python tools/profile.py configs/vit-tiny_freeze-embed_digits.py
    python tools/profile.py CONFIG --steps 100 --json profile.json --cfg-options train_dataloader.num_workers=4

Prints a table and what to change first; --out DIR receives profile.png and profile.md. Nothing else is kept of the run.
"""

import sys

if __name__ == 'profile':
    # Python finds this file when something imports the standard library's `profile` (`cProfile` does, and torch imports
    # that) while a tool of this directory runs. It gets the module that it wants.
    import importlib.machinery
    import importlib.util
    import os

    _others = [
        path for path in sys.path if os.path.realpath(path or '.') != os.path.dirname(os.path.realpath(__file__))
    ]
    _spec = importlib.machinery.PathFinder.find_spec(__name__, _others)
    sys.modules[__name__] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
else:
    import argparse

    from ftsgd_plugin.utils.cli import one_line_errors
    from ftsgd_plugin.utils.collection import imports_set_aside
    from ftsgd_plugin.utils.options import add_cfg_options, count, positive_int

    def parse_args() -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument('config', help='config file')
        parser.add_argument('--steps', type=positive_int, default=30, metavar='N', help='training steps (default: 30)')
        parser.add_argument(
            '--first',
            type=count,
            default=3,
            metavar='N',
            help='of these, first ones that count as start-up (default: 3)',
        )
        parser.add_argument(
            '--images', type=positive_int, default=256, metavar='N', help='images of the evaluation (default: 256)'
        )
        parser.add_argument('--json', metavar='PATH', help='write the numbers as data')
        parser.add_argument(
            '--out', metavar='DIR', help='directory of the figure (default: work_dirs/profile/CONFIG_NAME)'
        )
        add_cfg_options(parser)
        return parser.parse_args()

    @one_line_errors
    def main() -> None:
        args = parse_args()
        import time

        import psutil

        began = time.perf_counter() - (time.time() - psutil.Process().create_time())
        with imports_set_aside():  # as in a run
            from ftsgd_plugin.profiling.run_profile_page import write_profile

        write_profile(args.config, args.out, args.json, args.steps, args.images, args.first, args.cfg_options, began)


if __name__ == '__main__':
    main()
