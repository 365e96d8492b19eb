"""Metric keys that every evaluated run has, and the labels that tables and figures print for them."""

ID_METRIC = 'id/accuracy'
OOD_METRIC = 'ood/accuracy'
WORST_GROUP = 'ood/worst_group'
METRIC_LABELS = {ID_METRIC: 'ID', OOD_METRIC: 'OOD average', WORST_GROUP: 'OOD worst group'}
