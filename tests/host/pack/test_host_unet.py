"""Our UNet of classes beside the host's own, which descends from the original, with the same weights."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from class_models import GUIDED, UNGUIDED
from compvis_writer import compvis_state_dict
from safetensors.torch import load_file, save_file

from ldm_backend.config.model import LDMConfig
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_headless import find_host

# Relative, in the norm. Held to float64, ours is up to 1.2e-6 off (its convolutions on the CPU are Winograd's), and the
# host's up to 0.8e-6.
TOLERANCE = 2e-6
# Run in the host, which knows its own UNet; arguments: the host's folder, and a folder with what goes in and comes out.
NATIVE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file, save_file
folder = Path(sys.argv[2])
given = load_file(folder / "given.safetensors")
network = UNetModel(**json.loads((folder / "settings.json").read_text()), dtype=torch.float32, device="cpu").eval()
weights = {key.removeprefix("unet."): tensor for key, tensor in given.items() if key.startswith("unet.")}
network.load_state_dict(weights)
with torch.no_grad():
    eps = network(given["x"], given["t"], context=given["context"])
save_file({"eps": eps.contiguous()}, folder / "made.safetensors")
"""


def of_normal_groups(config: LDMConfig) -> LDMConfig:
    """The host's UNet has 32 groups in each norm."""
    head = {} if config.unet.num_attention_heads else {"attention_head_dim": 32}
    return replace(config, unet=replace(config.unet, block_out_channels=(32, 64), norm_num_groups=32, **head))


def settings_of(config: LDMConfig) -> dict[str, object]:
    """As the host's UNet takes them; two levels, attention at the second."""
    unet = config.unet
    heads: dict[str, object] = {"num_head_channels": 32}
    if unet.num_attention_heads:
        heads = {"num_heads": unet.num_attention_heads}
    return heads | {
        "image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "use_spatial_transformer": True, "legacy": False, "context_dim": 12,
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
    }  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("config", [GUIDED, UNGUIDED], ids=["one head", "heads of 32 channels"])
def test_the_hosts_unet_predicts_the_same(tmp_path: Path, config: LDMConfig, tokens: int) -> None:
    """With one token, of which attention cannot choose, and with several."""
    config = of_normal_groups(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours, stage = UNet(config.unet), build_first_stage(config.first_stage)
        given = {"x": torch.randn(2, 3, 8, 8), "t": torch.tensor([3.0, 951.0]), "context": torch.randn(2, tokens, 12)}
    state = compvis_state_dict(config, ours.state_dict(), stage.state_dict(), None)
    prefix = "model.diffusion_model."
    weights = {f"unet.{key.removeprefix(prefix)}": one for key, one in state.items() if key.startswith(prefix)}
    save_file(given | {key: one.contiguous() for key, one in weights.items()}, tmp_path / "given.safetensors")
    (tmp_path / "settings.json").write_text(json.dumps(settings_of(config)))
    location = find_host()
    command = [location.python, "-P", "-c", NATIVE, str(location.path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "made.safetensors")["eps"]
    with torch.no_grad():
        made = ours(given["x"], given["t"], given["context"])
    error = float((made - theirs).norm() / theirs.norm())
    assert error <= TOLERANCE, error
