"""ELPV as in `elpv-mono.py` with the kinds exchanged: trained on polycrystalline modules, OOD are the others."""

_base_ = './elpv-mono.py'

columns = dict(split='elpv-poly', group='group', metadata=['probability'])
evaluated = [
    dict(
        type='GroupedImages',
        data_root=_base_.data_root,
        table='elpv.csv',
        columns=columns,
        classes=['functional', 'defective'],
        split=split,
        pipeline=_base_.test_pipeline,
        test_mode=True,
    )
    for split in ('test', 'ood')
]

train_dataloader = dict(dataset=dict(columns=columns))
val_dataloader = dict(dataset=dict(datasets=evaluated))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=4)  # of 34 updates, as many in all as 6 of 24
