"""Peak rates of GPUs, from NVIDIA's data sheets: the denominators of utilisation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DevicePeaks:
    """What a device does at most.

    Attributes:
        bf16_flops: Dense bfloat16 matrix products, in FLOP/s; a multiply-add counts two. Data sheets with sparsity
            state twice as much.
        bandwidth: Of its memory, in bytes per second, reads and writes together.
        tf32_flops, float32_flops: Likewise dense matrix products, of float32 with TF32's mantissa and without.
    """

    bf16_flops: float
    bandwidth: float
    tf32_flops: float
    float32_flops: float

    def flops(self, precision: str) -> float:
        """FLOP/s in ``'bfloat16'``, ``'float16'`` (the same units), ``'tf32'`` or ``'float32'``."""
        return {'tf32': self.tf32_flops, 'float32': self.float32_flops}.get(precision, self.bf16_flops)


# By the name that PyTorch gives the device; a part of one (MIG) has another. Data sheets "NVIDIA A100 Tensor Core GPU"
# (2021), "NVIDIA H100 Tensor Core GPU" (2023) and "NVIDIA H200 Tensor Core GPU" (2024).
DEVICE_PEAKS = {
    'NVIDIA A100-PCIE-40GB': DevicePeaks(312e12, 1.555e12, 156e12, 19.5e12),
    'NVIDIA A100-SXM4-40GB': DevicePeaks(312e12, 1.555e12, 156e12, 19.5e12),
    'NVIDIA A100 80GB PCIe': DevicePeaks(312e12, 1.935e12, 156e12, 19.5e12),
    'NVIDIA A100-SXM4-80GB': DevicePeaks(312e12, 2.039e12, 156e12, 19.5e12),
    'NVIDIA H100 80GB HBM3': DevicePeaks(989.5e12, 3.35e12, 494.5e12, 67e12),  # 1,979 TFLOP/s with sparsity
    'NVIDIA H100 PCIe': DevicePeaks(756.5e12, 2.0e12, 378e12, 51e12),
    'NVIDIA H100 NVL': DevicePeaks(835.5e12, 3.9e12, 417.5e12, 60e12),
    'NVIDIA H200': DevicePeaks(989.5e12, 4.8e12, 494.5e12, 67e12),
    'NVIDIA H200 NVL': DevicePeaks(835.5e12, 4.8e12, 417.5e12, 60e12),
}


def utilisation(flops_per_second: float, name: str) -> float | None:
    """Model FLOPs utilisation: the share of a device's peak of dense bfloat16, 0 to 1; ``None`` if it is not known.

    Args:
        flops_per_second: FLOPs that the model needs, by its formulas, per second of training. What is computed twice
            (activation checkpointing) counts once.
        name: As ``torch.cuda.get_device_name`` gives it.

    Examples:
        >>> utilisation(395.8e12, 'NVIDIA H200')
        0.4
    """
    peaks = DEVICE_PEAKS.get(name)
    return None if peaks is None else flops_per_second / peaks.bf16_flops
