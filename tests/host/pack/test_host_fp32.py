"""Every way of the host into a network computes in IEEE fp32 and leaves the host's settings as they were."""

import json
import subprocess

import pytest

from ldm_headless import PACK_ROOT, find_host

# A host in a process of its own, which allows everything; prints what held inside of each network, and afterwards.
CODE = """
import importlib.util, json, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args; args.cpu = True
spec = importlib.util.spec_from_file_location('pack', sys.argv[2] + '/__init__.py',
    submodule_search_locations=[sys.argv[2]])
pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)
from pack.nodes.host import loading

def look():
    backends = torch.backends
    return [backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()]

loading.checkpoint_path = lambda name: Path(sys.argv[2], 'demo', 'portraits-128')
model, vae, _ = loading.load_checkpoint(loading.Choice('demo', 'auto', None, sys.argv[3], False, 'fp32'))
inner, stage = model.model, vae.first_stage_model
inner.tf32 = inner.diffusion_model.tf32 = sys.argv[3] == 'tf32'  # which the CPU would have declined
torch.set_float32_matmul_precision('medium')
before, seen = look(), {}

def note(name):
    seen[name] = []
    return lambda *_: seen[name].append(look())

hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in (
    ('unet', inner.diffusion_model.conv_in), ('decoder', stage.decoder.conv_in), ('encoder', stage.encoder.conv_in))]
x = torch.randn(1, 3, 32, 32)
with torch.inference_mode():
    inner.apply_model(x, torch.ones(1)), inner.predict(x, 5.0)
    image = vae.decode(x)
    vae.decode_tiled(x, tile_x=16, tile_y=16, overlap=4), vae.decode_exactly_tiled(x, 16, None)
    vae.encode(image), vae.encode_tiled(image, tile_x=64, tile_y=64, overlap=16)
    for hook in hooks:
        hook.remove()

    def backend(graph, inputs):  # as the host's TorchCompileModel compiles it, from outside of its own call
        noted = note('compiled')
        def run(*inputs):
            noted()
            return graph(*inputs)
        return run

    inner.diffusion_model = torch.compile(inner.diffusion_model, backend=backend)
    inner.apply_model(x, torch.ones(1))
print(json.dumps({'seen': seen, 'kept': look() == before}))
"""


@pytest.mark.parametrize(("precision", "unet"), [("fp32", [False, False, "highest"]), ("tf32", [True, True, "high"])])
def test_every_way_of_the_host_is_exact(precision: str, unet: list[object]) -> None:
    """The first stage at every precision of the UNet."""
    location = find_host()
    command = [location.python, "-P", "-c", CODE, str(location.path), str(PACK_ROOT), precision]
    done = subprocess.run(command, capture_output=True, text=True, cwd=location.path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kept"]
    calls = {name: [call == unet for call in found["seen"][name]] for name in ("unet", "compiled")}
    assert calls["unet"] == [True, True]
    assert calls["compiled"]
    assert all(calls["compiled"])
    stage = [*found["seen"]["decoder"], *found["seen"]["encoder"]]
    assert len(stage) > 20
    assert all(call == [False, False, "highest"] for call in stage)
