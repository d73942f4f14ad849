"""A device plug-in for the kubelet: pods ask for `nvidia.com/gpu` and get simulated GPUs.

Import `gpu_simulator.device_plugin.plugin`; it needs grpcio, which the rest does without.
"""
