"""The paper's published memory and time of methods (arXiv 2211.09359, section 4)."""

# Network -> method -> memory of AdamW over that of the method.
MEMORY_RATIOS = {
    'vit-b16': {'freeze-embed': 1.16, 'freeze-embed-no-momentum': 1.36},
    'vit-l14': {'freeze-embed': 1.18, 'freeze-embed-no-momentum': 1.49},
}
# Method -> its time over that of AdamW: "about 30 %" saved.
TIME_RATIOS = {'gradual-unfreezing': 0.7}


def memory_ratios(name: str) -> dict[str, float]:
    """Published memory of AdamW over that of each method.

    Args:
        name: Name of a config or model part; the paper measured two networks.

    Returns:
        dict: Method -> ratio; empty for other networks.
    """
    return next((ratios for network, ratios in MEMORY_RATIOS.items() if network in name), {})
