"""Hooks, environment, logging and randomness: every setting outside model, method and data."""

default_scope = 'mmpretrain'
custom_imports = dict(imports=['ftsgd_plugin'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),  # iterations between progress lines
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Model selection sees the ID number only. One rolling checkpoint and the best one.
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1, save_best='id/accuracy', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)
custom_hooks = [dict(type='HostMemoryHook'), dict(type='ResourceHook'), dict(type='RunRecordHook')]

env_cfg = dict(
    cudnn_benchmark=True,  # as in the paper's code
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # gloo where there is no GPU (tools/train.py)
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
