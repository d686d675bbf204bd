"""Gives every node of the pack hostile values, in a process with ComfyUI's code and without its server.

Arguments: the host's folder, the pack's, a folder for outputs, and names of nodes if not all. Beside the folder for
outputs lies `models` with a checkpoint for each task that sees a picture, named by it. The nodes and their inputs are
those that the pack declares, so a new node takes part by itself. A line of JSON goes out for each call; see `call`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOST, PACK, OUTPUT = (Path(argument) for argument in sys.argv[1:4])
sys.path.insert(0, str(HOST))

from comfy.cli_args import args  # noqa: E402 - it reads the arguments of the process

args.cpu = True

import comfy.sd  # noqa: E402 - what the arguments say counts when the others are imported
import folder_paths  # noqa: E402
import hostile_values as hostile  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy_api.latest import io  # noqa: E402

folder_paths.set_output_directory(str(OUTPUT))
folder_paths.add_model_folder_path("ldm", str(OUTPUT.parent / "models"))
spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
pack: Any = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
sys.modules["pack"] = pack
spec.loader.exec_module(pack)  # pyright: ignore[reportOptionalMemberAccess]

pack_nodes: Any = importlib.import_module("pack.nodes")
latent_batch: Any = importlib.import_module("pack.nodes.shared.latent_batch")
shared_guides: Any = importlib.import_module("pack.nodes.shared.guides")
guide_kinds: Any = importlib.import_module("pack.ldm_backend.guidance.guides")
losses: Any = importlib.import_module("pack.ldm_backend.guidance.losses")
tasks: Any = importlib.import_module("pack.ldm_backend.config.conditioning")
LDMError: Any = importlib.import_module("pack.ldm_backend.errors").LDMError

LIMIT = 5  # seconds
CHECKPOINTS = {
    tasks.UNCONDITIONAL: "portraits-128",
    tasks.CLASS_CONDITIONAL: f"{tasks.CLASS_CONDITIONAL}.safetensors",
    tasks.VECTOR_CONDITIONAL: f"{tasks.VECTOR_CONDITIONAL}.safetensors",
}
CPU = torch.device("cpu")
LONG = ("steps", "jump_length", "resamples", "iterations")  # their largest values are legal, and take minutes
SMALL = {"steps": 2, "frames": 3, "width": 64, "height": 64, "variations": 2, "resamples": 1, "jump_length": 1,
         "tile": 16, "class_name": "none", "checkpoint": "portraits-128", "filename_prefix": "walk/x"}  # fmt: skip
# A map of labels: black, which is number 0.
MAPS = {
    "LDMSemanticLabels": {"image": lambda: torch.zeros(1, 64, 64, 3), "labels": "numbers"},
    "LDMGuideBlurredPicture": {"kernel": lambda: torch.ones(1, 5, 5, 3)},  # sides that are odd
}
KEYS = {"seed": latent_batch.SEED_KEY, "labels": latent_batch.LABELS_KEY, "info": latent_batch.INFO_KEY}


class TookTooLongError(BaseException):
    """More than LIMIT."""


def out_of_time(*_: object) -> None:
    raise TookTooLongError


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in lists and tables, a few levels deep, with its place."""
    if place.count(".") > 3:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    yield place, value
    for key, item in items:
        yield from flat(item, f"{place}.{str(key)[:50]}")


def bytes_of(tensor: torch.Tensor) -> bytes:
    """What a tensor holds, if it is plain and small."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    if not plain or tensor.is_quantized or not 0 < tensor.numel() < 2**22:
        return b""
    return bytes(tensor.detach().clone().contiguous().view(-1).view(torch.uint8).numpy())


def snapshot(value: Any) -> list[Any]:
    """What a value holds, so that a later change shows."""
    found: list[Any] = []
    for place, each in flat(value):
        if isinstance(each, torch.Tensor):
            found.append((place, id(each), each.requires_grad, bytes_of(each)))
        elif isinstance(each, dict | list):
            found.append((place, type(each).__name__, len(each)))
        else:
            found.append((place, id(each)))
    return found


def has_nan(value: Any) -> bool:
    """Whether a tensor in it holds something that is no number."""
    tensors = [each for _, each in flat(value) if isinstance(each, torch.Tensor)]
    return any(
        t.is_floating_point() and not t.is_nested and t.numel() < 2**22 and not bool(torch.isfinite(t).all())
        for t in tensors
    )


def blame(error: BaseException) -> str:
    """The last place in the pack's or the host's own files."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/lib/python3" not in f.filename]
    last = next((f for f in reversed(frames) if str(Path(__file__).parent) not in f.filename), None)
    return f"{last.filename}:{last.lineno}" if last else ""


def call(node: str, name: str, value_name: str, value: Any, run: Callable[[], Any]) -> None:
    """Run, and say what came of it.

    Keys: node, input, value: which call. end: "done", or the error's class. family: whether it is an LDMError. message,
    place: of the error. seconds: of this process. nan: whether a tensor that came out holds what is no number. changed:
    whether the value was written to.
    """
    before = snapshot(value)
    found: dict[str, Any] = {"node": node, "input": name, "value": value_name, "family": False, "message": ""}
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        with torch.inference_mode():
            result = run()
        found |= {"end": "done", "nan": has_nan(result)}
    except (Exception, TookTooLongError) as error:  # noqa: BLE001 - the test looks at what it is
        family = isinstance(error, LDMError)
        found |= {"end": type(error).__name__, "family": family, "message": str(error)[:3000], "place": blame(error)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    found |= {"seconds": time.process_time() - start, "changed": snapshot(value) != before}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def execute(node: type, inputs: dict[str, Any], hidden: dict[str, Any] | None = None) -> Any:
    """As the host calls it; what the node hands out."""
    known: dict[Any, Any] = {io.Hidden.unique_id: "1", io.Hidden.prompt: {}}
    made: Any = node.PREPARE_CLASS_CLONE(known | (hidden or {}))  # pyright: ignore[reportAttributeAccessIssue]
    return made.EXECUTE_NORMALIZED(**inputs).args


def values_for(item: Any, good: dict[str, Callable[[], Any]], foreign: hostile.Values) -> hostile.Values:
    """Hostile values for an input of a node."""
    kind = item.io_type
    if kind == "LATENT":
        return hostile.latents(good[kind]()["samples"], KEYS)
    if kind in ("IMAGE", "MASK"):
        return hostile.NOTHING | hostile.misfits(good[kind]()) | hostile.variants(good[kind]())
    if kind in ("MODEL", "VAE", shared_guides.GUIDES_TYPE):
        return hostile.NOTHING | {name: make for name, make in foreign.items() if name != kind}
    if kind in ("INT", "FLOAT"):
        values = hostile.numbers(item.min, item.max, int if kind == "INT" else float)
        return {name: make for name, make in values.items() if name != "most" or item.id not in LONG}
    if kind == "STRING":
        return hostile.TEXTS
    return hostile.NOTHING  # choices, truths, and kinds that are new


def foreign_values(model: Any, vae: Any, other: Any, latent: Callable[[], Any]) -> hostile.Values:
    """What other nodes give, for inputs of the kinds MODEL and VAE; `other` is a MODEL of another task."""
    foreign_vae = comfy.sd.VAE.__new__(comfy.sd.VAE)
    return {
        "MODEL": lambda: model,
        "VAE": lambda: vae,
        "MODEL of another task": lambda: other,
        "inner model": lambda: model.model,
        "network": lambda: model.model.diffusion_model,
        "first stage": lambda: vae.first_stage_model,
        "CLIP": lambda: comfy.sd.CLIP(no_init=True),
        "VAE of another family": lambda: foreign_vae,
        "MODEL of another family": lambda: ModelPatcher(torch.nn.Linear(1, 1), CPU, CPU),
        "CONDITIONING": lambda: [[torch.zeros(1, 1, 1), {}]],
        "LATENT": latent,
    }


def task_of(node: Any) -> str:
    """The first task that the MODEL of a node may be for."""
    (item,) = [item for item in node.GET_SCHEMA().inputs if item.io_type == "MODEL"] or [None]
    return getattr(item, "tasks", tasks.TASKS)[0]


def walk(node: Any, good: dict[str, Callable[[], Any]], foreign: hostile.Values) -> None:
    """Every hostile value for every input of a node of the pack."""
    schema, name = node.GET_SCHEMA(), node.__name__

    def inputs(**odd: Any) -> dict[str, Any]:
        made = {item.id: good[item.io_type]() for item in schema.inputs if item.io_type in good}
        if "latent_to" in made:  # or the two ends of a walk would be one
            made["latent_to"]["samples"] = made["latent_to"]["samples"].flip(-1)
        widgets = [item for item in schema.inputs if item.io_type not in good]
        made |= {item.id: SMALL.get(item.id, item.default) for item in widgets if not item.optional}
        made |= {key: value() if callable(value) else value for key, value in MAPS.get(name, {}).items()}
        return made | odd

    call(name, "", "good", None, lambda: execute(node, inputs()))
    for item in schema.inputs:
        for value_name, make in values_for(item, good, foreign).items():
            odd = {item.id: make()}
            call(name, item.id, value_name, odd[item.id], partial(lambda odd: execute(node, inputs(**odd)), odd))
    for key in schema.hidden or ():
        for value_name, make in hostile.HIDDEN.items() if key in (io.Hidden.prompt, io.Hidden.extra_pnginfo) else ():
            hidden = {key: make()}
            call(name, key.name, value_name, hidden[key], partial(lambda odd: execute(node, inputs(), odd), hidden))


def walk_native(model: Any, vae: Any, good: dict[str, Callable[[], Any]], ours: dict[str, Any]) -> None:
    """What our MODEL, VAE, NOISE, GUIDER and SAMPLER make of what nodes of the host hand on unseen."""
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    native: Any = importlib.import_module("nodes")  # the host's
    empty = [[torch.zeros(1, 1, 1), {}]]
    (noise,), (guider,) = execute(ours["LDMNoise"], {"seed": 3}), execute(ours["LDMGuider"], {"model": model})
    (sampler,) = execute(ours["LDMSamplerSelect"], {"sampler": "ddim", "eta": 0.5})
    (sigmas,) = execute(ours["LDMSigmas"], {"model": model, "steps": 2, "grid": "leading", "strength": 1.0})
    advanced = getattr(SamplerCustomAdvanced, "execute", None) or SamplerCustomAdvanced().sample

    def custom(latent: Any, levels: Any = sigmas) -> Any:
        return advanced(noise, guider, sampler, levels, latent)

    def euler(latent: Any) -> Any:
        return native.KSampler().sample(model, 3, 2, 1.0, "euler", "simple", empty, empty, latent)

    latents: dict[str, Callable[[Any], Any]] = {
        "VAEDecode": lambda latent: native.VAEDecode().decode(vae, latent),
        "VAEDecodeTiled": lambda latent: native.VAEDecodeTiled().decode(vae, latent, 64),
        "KSampler": euler,
        "SamplerCustomAdvanced": custom,
        "NOISE": lambda latent: noise.generate_noise(latent),
    }
    images: dict[str, Callable[[Any], Any]] = {
        "VAEEncode": lambda image: native.VAEEncode().encode(vae, image),
        "VAEEncodeTiled": lambda image: native.VAEEncodeTiled().encode(vae, image, 64, 0),
    }
    kinds = dict.fromkeys(latents, "LATENT") | dict.fromkeys(images, "IMAGE")
    for name, run in (latents | images).items():
        call(name, "", "good", None, partial(lambda run, kind: run(good[kind]()), run, kinds[name]))
        for value_name, make in values_for(SimpleNamespace(io_type=kinds[name]), good, {}).items():
            value = make()
            call(name, kinds[name].lower(), value_name, value, partial(run, value))
    for value_name, make in hostile.sigmas(sigmas).items():
        value = make()
        call("SamplerCustomAdvanced", "sigmas", value_name, value, partial(custom, good["LATENT"](), value))


def walk_attending(model: Any, good: Callable[[], Any], ours: dict[str, Any]) -> None:
    """What a MODEL of classes makes of a conditioning that some node has changed, in our sampler and the host's."""
    native: Any = importlib.import_module("nodes")
    ((context, table),) = execute(ours["LDMClass"], {"model": model, "class_name": "none", "classes": "3"})[0]
    none = execute(ours["LDMClass"], {"model": model, "class_name": "none"})[0]
    settings = {"sampler": "unipc", "steps": 2, "grid": "auto", "cfg": 2.0, "negative": none}

    def single(positive: Any) -> Any:
        return execute(ours["LDMSampler"], {"model": model, "latent": good(), "positive": positive} | settings)

    def euler(positive: Any) -> Any:
        return native.KSampler().sample(model, 3, 2, 2.0, "euler", "simple", positive, none, good())

    odd = hostile.NOTHING | hostile.misfits(context) | hostile.variants(context)
    for name, run in (("LDMSampler", single), ("KSampler", euler)):
        call(name, "", "good", None, partial(run, [[context, table]]))
        for value_name, make in odd.items():
            value = [[make(), table]]
            call(name, "positive", f"holding {value_name}", value, partial(run, value))
        for value_name, make in hostile.NOTHING.items():
            value = [[context, {tasks_key: make() for tasks_key in table}]]
            call(name, "positive", f"for {value_name}", value, partial(run, value))


def walk_clip(clip: Any) -> None:
    """What our CLIP makes of prompts, and of tokens that some node has changed."""
    native: Any = importlib.import_module("nodes")
    call("CLIPTextEncode", "", "good", None, lambda: native.CLIPTextEncode().encode(clip, "a woman"))
    for name, make in (hostile.NOTHING | hostile.TEXTS | hostile.PROMPTS).items():
        text = make()
        call("CLIPTextEncode", "text", name, text, partial(native.CLIPTextEncode().encode, clip, text))
    row = clip.tokenize("a woman")["ldm"][0]
    places: dict[str, Callable[[Any], Any]] = {
        "tokens": lambda odd: odd,
        "rows": lambda odd: {"ldm": odd},
        "row": lambda odd: {"ldm": [odd]},
        "pair": lambda odd: {"ldm": [[*row[:-1], odd]]},
        "token": lambda odd: {"ldm": [[*row[:-1], (odd, 1.0)]]},
        "weight": lambda odd: {"ldm": [[*row[:-1], (0, odd)]]},
    }
    for name, make in hostile.NOTHING.items():
        for place, put in places.items():
            tokens = put(make())
            call("CLIPTextEncode", place, name, tokens, partial(clip.encode_from_tokens_scheduled, tokens))


def main() -> None:
    """Walk over all nodes, all inputs, all values."""
    resource.setrlimit(resource.RLIMIT_DATA, (2**34, 2**34))
    signal.signal(signal.SIGPROF, out_of_time)
    torch.set_num_threads(1)
    nodes: dict[str, Any] = {node.__name__: node for node in asyncio.run(pack_nodes.LDMExtension().get_node_list())}
    loaded = {
        task: execute(nodes["LDMCheckpointLoader"], {"checkpoint": CHECKPOINTS.get(task, task)}) for task in tasks.TASKS
    }
    model, vae, _ = loaded[tasks.UNCONDITIONAL]
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, 3, 16, 16, generator=generator)
    image = torch.rand(1, 64, 64, 3, generator=generator)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1.0
    grey = losses.MeanColour((0.5, 0.5, 0.5))
    good: dict[str, Callable[[], Any]] = {
        "MODEL": lambda: model,
        "VAE": lambda: vae,
        "LATENT": lambda: {"samples": samples.clone(), "batch_index": [0], KEYS["seed"]: 3},
        "IMAGE": image.clone,
        "MASK": mask.clone,
        "CLIP_VISION_OUTPUT": lambda: SimpleNamespace(image_embeds=samples[0, 0, :2, :12].clone()),
        shared_guides.GUIDES_TYPE: lambda: shared_guides.GuideChain((guide_kinds.LossGradient(grey),)),
    }
    chosen = sys.argv[4:]
    for name, node in nodes.items():
        if not chosen or name in chosen:
            task = task_of(node)
            other = loaded[next(one for one in reversed(loaded) if one != task)][0]
            model, vae, _ = loaded[task]
            fitting = good | {"MODEL": lambda model=model: model, "VAE": lambda vae=vae: vae}
            walk(node, fitting, foreign_values(model, vae, other, good["LATENT"]))
    model, vae, _ = loaded[tasks.UNCONDITIONAL]
    if not chosen or "native" in chosen:
        walk_native(model, vae, good, nodes)
        walk_attending(loaded[tasks.CLASS_CONDITIONAL][0], good["LATENT"], nodes)
        walk_clip(loaded[tasks.TEXT_CONDITIONAL][2])


if __name__ == "__main__":
    main()
