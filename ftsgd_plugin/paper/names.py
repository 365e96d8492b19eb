"""Names of models, datasets and methods, as figures and tables print them."""

LABELS = {
    'sgd': 'SGD',
    'adamw': 'AdamW',
    'freeze-embed': 'SGD (freeze-embed)',
    'adamw-freeze-embed': 'AdamW (freeze-embed)',
    'freeze-embed-no-momentum': 'SGD (freeze-embed, no momentum)',
    'sgd-in-backward': 'SGD in backward',
    'gradual-unfreezing': 'gradual unfreezing',
    'lamb': 'LAMB',
    'lars': 'LARS',
    'freeze-stem': 'SGD (freeze patch convolution)',
    'sgd-no-momentum': 'SGD (no momentum)',
    'sgd-weight-decay': 'SGD (weight decay 0.01)',
}
