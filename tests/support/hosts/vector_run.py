"""Draws from a model of vectors of CLIP in a process with ComfyUI's code, with a tiny CLIP of its own.

Arguments: the host's folder, the pack's, and a folder with models/vectors.safetensors, pictures.pt and clip/ (a
configuration and weights of transformers' CLIPVisionModelWithProjection). latents.pt is written there, by name.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

HOST, PACK, WORK = (Path(argument) for argument in sys.argv[1:4])
sys.path.insert(0, str(HOST))

from comfy.cli_args import args  # noqa: E402 - it reads the arguments of the process

args.cpu = True

import comfy.clip_vision  # noqa: E402 - what the arguments say counts when the others are imported
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy_api.latest import io  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

native: Any = importlib.import_module("nodes")  # the host's

folder_paths.add_model_folder_path("ldm", str(WORK / "models"))
spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
pack: Any = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
sys.modules["pack"] = pack
spec.loader.exec_module(pack)  # pyright: ignore[reportOptionalMemberAccess]
pack_nodes: Any = importlib.import_module("pack.nodes")
OURS = {node.__name__: node for node in asyncio.run(pack_nodes.LDMExtension().get_node_list())}


def execute(node: str, **inputs: Any) -> Any:
    """As the host calls it; what the node hands out."""
    made: Any = OURS[node].PREPARE_CLASS_CLONE({io.Hidden.unique_id: "1", io.Hidden.prompt: {}})
    return made.EXECUTE_NORMALIZED(**inputs).args


def refusal(**inputs: Any) -> str:
    """What LDM CLIP Vectors says of them."""
    try:
        execute("LDMCLIPVectors", **inputs)
    except Exception as error:  # noqa: BLE001 - the test looks at what it says
        return f"{type(error).__name__}: {error}"
    return ""


@torch.inference_mode()
def main() -> None:
    """All that the test compares."""
    clip: Any = comfy.clip_vision.ClipVisionModel(str(WORK / "clip" / "config.json"))
    assert clip.load_sd(load_file(WORK / "clip" / "model.safetensors"))[0] == []
    seen = [clip.encode_image(pictures) for pictures in torch.load(WORK / "pictures.pt")]
    model, _, _ = execute("LDMCheckpointLoader", checkpoint="vectors.safetensors")
    first, _ = execute("LDMCLIPVectors", model=model, clip_vision_output=seen[0])
    positive, none = execute("LDMCLIPVectors", model=model, clip_vision_output=seen[1], vectors=first)
    (noise,) = execute("LDMLatentNoise", seed=3, width=32, height=32, batch_size=2, model=model)
    run = {"model": model, "latent": noise, "sampler": "ddim", "steps": 4, "grid": "trailing", "cfg": 5.0}
    found = {
        "context": positive[0][0],
        "open": execute("LDMSampler", positive=positive, **run)[0]["samples"],
        "connected": execute("LDMSampler", positive=positive, negative=none, **run)[0]["samples"],
    }
    (empty,) = execute("LDMEmptyLatent", width=32, height=32, batch_size=2, model=model)
    (native_latent,) = native.KSampler().sample(model, 3, 4, 5.0, "ddim", "ddim_uniform", positive, none, empty)
    found["native"] = native_latent["samples"]
    seen[0].image_embeds = torch.ones(1, 16)
    seen[1].last_hidden_state = torch.ones(1, 577, 4)
    text = [[torch.ones(1, 77, 12), {"pooled_output": torch.ones(1, 12)}]]
    found["refusals"] = [
        refusal(model=model, clip_vision_output=seen[0]),
        refusal(model=model, clip_vision_output=seen[1]),
        refusal(model=model, clip_vision_output=clip.encode_image(torch.rand(22, 32, 32, 3))),
        refusal(model=model, clip_vision_output=clip.encode_image(torch.rand(1, 32, 32, 3)), vectors=text),
    ]
    torch.save(found, WORK / "latents.pt")


main()
