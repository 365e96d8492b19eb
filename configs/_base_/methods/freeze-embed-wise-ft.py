"""SGD (freeze-embed), then weight interpolation: WiSE-FT between the pretrained and the fine-tuned weights.

Two commands: `python tools/train.py CONFIG` trains as `freeze-embed`, `python tools/wise_ft.py RUN` interpolates and
chooses by ID accuracy. `tools/tables.py` and `tools/report.py` show the interpolated weights under this name, and leave
a run out that has not been interpolated. 12 bytes per trained parameter (weight, gradient, momentum), 4 per frozen one.
Source: arXiv 2109.01903. The grid of freeze-embed: lr 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2.
"""

_base_ = './freeze-embed.py'
