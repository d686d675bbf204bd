"""A pack for tests only: nodes that hand ours what a foreign pack might, and one that sees what a foreign pack sees.

Loaded by the host, not by pytest.
"""

import copy
import gc
import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
import warnings

import comfy.model_patcher
import numpy as np
import torch


class TestForeignModel:
    """A MODEL of another family."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {}}

    def make(self):
        cpu = torch.device("cpu")
        return (comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), load_device=cpu, offload_device=cpu),)


class TestCutBatch:
    """Drops all images but the first and forgets the batch index, as careless latent nodes do."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "cut"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"latent": ("LATENT",)}}

    def cut(self, latent):
        return (latent | {"samples": latent["samples"][:1]},)


class TestProcessState:
    """Tells, as JSON text, everything of the process that packs share."""

    RETURN_TYPES = ()
    FUNCTION = "tell"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):  # noqa: N802 - the host's name
        return float("nan")

    def tell(self):
        state = {"torch": torch_settings(), "random": random_states(), "python": python(), "asked": time.monotonic()}
        return {"ui": {"text": [json.dumps(state)]}}


def torch_settings():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "default_dtype": str(torch.get_default_dtype()),
        "default_device": str(torch.get_default_device()),
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.get_deterministic_debug_mode()],
        "matmul": [matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction],
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": [cudnn.enabled, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic],
        "mkldnn": torch.backends.mkldnn.enabled,
        "fp32": [getattr(part, "fp32_precision", None) for part in (cudnn, cudnn.conv, matmul, torch.backends)]
        if hasattr(cudnn, "conv")
        else [],
        "attention": [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()],
        "autocast": [torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu"))],
    }


def random_states():
    states = (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state(legacy=False)).encode(),
        repr(random.getstate()).encode(),
    )
    return [hashlib.sha256(state).hexdigest() for state in states]


def python():
    loggers = {name: logging.getLogger(name).level for name in ("", "comfyui_ldm", "PIL", "asyncio", "torch")}
    return {
        "environment": dict(os.environ),
        "path": sys.path,
        "hooks": [len(sys.meta_path), len(sys.path_hooks)],
        "folder": os.getcwd(),
        "levels": loggers,
        "handlers": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "disabled_below": logging.root.manager.disable,
        "warnings": [repr(rule) for rule in warnings.filters],
        "recursion": sys.getrecursionlimit(),
        "garbage": [gc.isenabled(), *gc.get_threshold()],
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "numpy_errors": np.geterr(),
    }


class TestLoadedAgain:
    """MODEL and VAE as newer hosts make them for a second device: by the factory that the loader left."""

    RETURN_TYPES = ("MODEL", "VAE")
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"model": ("MODEL",), "vae": ("VAE",)}}

    @classmethod
    def IS_CHANGED(cls, **_):  # noqa: N802 - the host's name
        return float("nan")

    def load(self, model, vae):
        vae = copy.copy(vae)
        vae.patcher = self.again(vae.patcher)
        assert vae.patcher.model is not vae.first_stage_model
        vae.first_stage_model = vae.patcher.model
        return (self.again(model), vae)

    def again(self, patcher):
        if hasattr(patcher, "deepclone_multigpu"):
            return patcher.deepclone_multigpu(new_load_device=patcher.load_device)
        factory, arguments, place = patcher.cached_patcher_init
        return factory(*arguments, disable_dynamic=True)[place]


NODE_CLASS_MAPPINGS = {
    "TestForeignModel": TestForeignModel,
    "TestCutBatch": TestCutBatch,
    "TestLoadedAgain": TestLoadedAgain,
    "TestProcessState": TestProcessState,
}
