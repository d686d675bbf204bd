"""A pack for tests only: nodes that hand ours what a foreign pack might. Loaded by the host, not by pytest."""

import comfy.model_patcher
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


NODE_CLASS_MAPPINGS = {"TestForeignModel": TestForeignModel, "TestCutBatch": TestCutBatch}
