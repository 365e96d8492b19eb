custom_hooks = [
    dict(type='HostMemoryHook'),
    dict(type='ResourceHook'),
    dict(type='RunRecordHook'),
]
custom_imports = dict(
    allow_failed_imports=False,
    imports=[
        'ftsgd_plugin',
    ],
)
data_root = 'data/digits'
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1, rule='greater', save_best='id/accuracy', type='SafeCheckpointHook'),
    logger=dict(interval=1, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(enable=False, type='VisualizationHook'),
)
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=True, dist_cfg=dict(backend='nccl'), mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)
)
experiment_name = 'stopped'
launcher = 'none'
load_from = None
log_level = 'INFO'
metainfo = dict(
    classes=(
        'digit-0-4',
        'digit-5-9',
    ),
    places=(
        'grass',
        'gravel',
    ),
)
model = dict(
    backbone=dict(
        arch=dict(embed_dims=16, feedforward_channels=32, num_heads=2, num_layers=6),
        drop_rate=0.1,
        img_size=32,
        init_cfg=None,
        patch_size=8,
        type='VisionTransformer',
    ),
    data_preprocessor=dict(
        mean=[
            127.5,
            127.5,
            127.5,
        ],
        std=[
            127.5,
            127.5,
            127.5,
        ],
        to_rgb=True,
    ),
    head=dict(
        in_channels=16,
        init_cfg=None,
        loss=dict(loss_weight=1.0, type='CrossEntropyLoss'),
        num_classes=2,
        type='LinearClsHead',
    ),
    type='ImageClassifier',
)
optim_wrapper = dict(
    constructor='FreezeEmbedOptimWrapperConstructor',
    optimizer=dict(lr=0.001, momentum=0.9, type='SGD', weight_decay=0.0),
    paramwise_cfg=dict(freeze='embed'),
    type='OptimWrapper',
)
param_scheduler = dict(by_epoch=True, decay=3.73, type='GradualUnfreezingLR')
randomness = dict(deterministic=False, seed=0)
resume = False
test_cfg = dict()
test_dataloader = dict(
    batch_size=128,
    dataset=dict(
        datasets=[
            dict(
                data_root='data/digits',
                metainfo=dict(
                    classes=(
                        'digit-0-4',
                        'digit-5-9',
                    ),
                    places=(
                        'grass',
                        'gravel',
                    ),
                ),
                pipeline=[
                    dict(type='LoadRGBImage'),
                    dict(type='PackRGB'),
                    dict(
                        meta_keys=(
                            'img_path',
                            'split',
                            'group',
                        ),
                        type='PackInputs',
                    ),
                ],
                split='val',
                type='Waterbirds',
            ),
            dict(
                data_root='data/digits',
                metainfo=dict(
                    classes=(
                        'digit-0-4',
                        'digit-5-9',
                    ),
                    places=(
                        'grass',
                        'gravel',
                    ),
                ),
                pipeline=[
                    dict(type='LoadRGBImage'),
                    dict(type='PackRGB'),
                    dict(
                        meta_keys=(
                            'img_path',
                            'split',
                            'group',
                        ),
                        type='PackInputs',
                    ),
                ],
                split='test',
                type='Waterbirds',
            ),
        ],
        type='ConcatDataset',
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
test_evaluator = dict(id='val', ood='test', type='GroupAccuracy')
test_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='PackRGB'),
    dict(
        meta_keys=(
            'img_path',
            'split',
            'group',
        ),
        type='PackInputs',
    ),
]
train_cfg = dict(max_epochs=4, type='ResumableEpochTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        data_root='data/digits',
        indices=90,
        metainfo=dict(
            classes=(
                'digit-0-4',
                'digit-5-9',
            ),
            places=(
                'grass',
                'gravel',
            ),
        ),
        pipeline=[
            dict(type='LoadRGBImage'),
            dict(type='PackRGB'),
            dict(type='PackInputs'),
        ],
        split='train',
        type='Waterbirds',
    ),
    num_workers=0,
    sampler=dict(shuffle=True, type='DefaultSampler'),
)
train_pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='PackRGB'),
    dict(type='PackInputs'),
]
val_cfg = dict()
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        datasets=[
            dict(
                data_root='data/digits',
                indices=64,
                metainfo=dict(
                    classes=(
                        'digit-0-4',
                        'digit-5-9',
                    ),
                    places=(
                        'grass',
                        'gravel',
                    ),
                ),
                pipeline=[
                    dict(type='LoadRGBImage'),
                    dict(type='PackRGB'),
                    dict(
                        meta_keys=(
                            'img_path',
                            'split',
                            'group',
                        ),
                        type='PackInputs',
                    ),
                ],
                split='val',
                type='Waterbirds',
            ),
            dict(
                data_root='data/digits',
                indices=64,
                metainfo=dict(
                    classes=(
                        'digit-0-4',
                        'digit-5-9',
                    ),
                    places=(
                        'grass',
                        'gravel',
                    ),
                ),
                pipeline=[
                    dict(type='LoadRGBImage'),
                    dict(type='PackRGB'),
                    dict(
                        meta_keys=(
                            'img_path',
                            'split',
                            'group',
                        ),
                        type='PackInputs',
                    ),
                ],
                split='test',
                type='Waterbirds',
            ),
        ],
        type='ConcatDataset',
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(id='val', ood='test', type='GroupAccuracy')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    type='UniversalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ],
)
work_dir = 'stopped'
