"""The learning-rate grids that the paper searched, per method."""

SGD_GRID = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ADAMW_GRID = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)

# Method -> its six rates. For gradual unfreezing they are base rates: its first epoch has exp(3.73) = 41.68 times
# the base rate. LAMB and LARS had 3e-4 and 1e-3 as well on Living-17, Waterbirds and DomainNet. SGD in backward is not
# in the paper and has the grid of SGD.
GRIDS = {
    'sgd': SGD_GRID,
    'adamw': ADAMW_GRID,
    'freeze-embed': SGD_GRID,
    'adamw-freeze-embed': ADAMW_GRID,
    'freeze-embed-no-momentum': SGD_GRID,
    'sgd-in-backward': SGD_GRID,
    'gradual-unfreezing': ADAMW_GRID,
    'lamb': ADAMW_GRID,
    'lars': ADAMW_GRID,
}


def format_rate(rate: float) -> str:
    """One digit and an exponent, as the configs write it: ``3e-05`` -> ``'3e-5'``."""
    return f'{rate:.0e}'.replace('e-0', 'e-')
