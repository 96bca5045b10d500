"""fp32 that is fp32, on every device."""

import functools

import torch

# On a GPU, cuDNN convolves float32 in TF32, which keeps 10 bits, by algorithms that may differ from call to call: a number would
# depend on the kind of device, and not be the same when measured again. Around a block, or `@exact()` around a function.
exact = functools.partial(torch.backends.cudnn.flags, enabled=True, deterministic=True, allow_tf32=False)
