"""Start Ray here, write its address into FILE and stay until it or process PID ends: python ray_head.py FILE PID."""

import os
import signal
import sys
import threading

import psutil
import ray

os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
ended = threading.Event()
ray.init(address='local', num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: ended.set())
with open(f'{sys.argv[1]}.tmp', 'w') as file:
    file.write(ray.get_runtime_context().gcs_address)
os.replace(f'{sys.argv[1]}.tmp', sys.argv[1])
while not ended.wait(1) and psutil.pid_exists(int(sys.argv[2])):
    pass
ray.shutdown()
