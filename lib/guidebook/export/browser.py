"""A run's network for sampling in a page of the book: an ONNX graph, its prompts' embeddings and the coefficients of its steps, as one script.

The graph takes a batch of two, an image with its prompt and without, so that a step of guidance is one forward. Its weights are rounded
to three bytes: in half precision, images by a hardly trained network at w = 7.5 were up to 29 of 255 off, and now 1.
"""

import base64
import gzip
import importlib.metadata
import io
import json
import warnings
from pathlib import Path

from guidebook.conditioning.captions import NULL, class_captions
from guidebook.runs.artifact import artifact, place
from guidebook.runs.manifest import MANIFEST, intact
from guidebook.runs.run import Run

LARGEST = 20_000_000  # bytes of fp32 weights that a page may carry; its script has about as many
CUT = 8  # bits of a weight's mantissa, the last of 23, that are rounded away: gzip packs what is zero
STEPS = (5, 10, 20, 30, 50)  # numbers of steps that a page offers, beside the run's own
SOLVERS = ("ddpm", "ddim", "dpmpp-2m", "heun")  # that solvers.js has
PROMPTS = 12  # of a run whose captions are those of single images
SCRIPT, PAGE = "network.js", "page.json"


def fits(run: Run) -> bool:
    """A check that a run has weights, in pixel space, which a page can carry."""
    weights = run.path / "model" / run.params.sample.weights / "diffusion_pytorch_model.safetensors"
    small = weights.exists() and weights.stat().st_size <= LARGEST
    return small and not run.recorded and not run.params.model.vae and run.params.sample.sampler in SOLVERS


def exported(run: Run) -> Path:
    """A folder with the script SCRIPT, which gives `guidebookAssets[name]`, and PAGE, what a page shows before it is loaded.

    Made once and found afterwards without importing torch. Raises what torch's exporter does not know, OSError.
    """
    weights = run.path / "model" / run.params.sample.weights / MANIFEST
    versions = [importlib.metadata.version(name) for name in ("torch", "diffusers", "onnx")]
    spec = [run.params.model_dump(mode="json"), weights.read_text(), Path(__file__).read_text(), versions]
    folder = place(run.path, "browser", spec)
    return folder if intact(folder) else artifact(run.path, "browser", spec, lambda aside: _write(run, aside))


def _write(run: Run, aside: Path) -> None:
    from guidebook.conditioning.encoders import encode
    from guidebook.models.space import shape_of

    params, name = run.params, f"{run.params.experiment}-{run.params.profile}"
    prompts = _prompts(run)
    tokens = encode(params.text, [*prompts, NULL])
    (std, walks), shape = _walks(run), shape_of(params)
    own = {key: getattr(params.sample, key) for key in ("sampler", "steps", "eta", "v")}
    known = {
        "name": name,
        "prompts": prompts,
        "shape": shape,
        "width": tokens.shape[-1],
        "range": params.data.range,
        "std": std,
    }
    known |= {"seed": str(params.sample.seed), "own": own, "steps": [*walks]}
    packed = {"network": _packed(_graph(run, tokens[:2])), "tokens": _packed(tokens.numpy().tobytes()), "walks": walks}
    script = f"(globalThis.guidebookAssets ??= {{}})[{json.dumps(name)}] = {json.dumps(packed, allow_nan=False)};\n"
    (aside / SCRIPT).write_text(script)
    (aside / PAGE).write_text(json.dumps(known | {"bytes": len(script)}))


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _prompts(run: Run) -> list[str]:
    """The captions of the classes, or of the run's first samples."""
    from guidebook.conditioning.captions import caption_of
    from guidebook.conditioning.source import sample_labels

    if not run.params.data.entry.attributes:
        return class_captions(run.params.data.caption, run.params.data.entry.classes)
    import torch

    labels = sample_labels(run.params, torch.arange(PROMPTS)).tolist()
    return [*dict.fromkeys(caption_of(run.params, label, i) for i, label in enumerate(labels))]


def _walks(run: Run) -> tuple[float, dict[int, list]]:
    """The deviation of the noise at the start, and for each number of steps the times that solvers visit: rows of what the network is given
    of a time, the factor of x on its way in, and a, s, p, q of x = a x0 + s ε and F = p x0 + q ε; of the image's time a and s alone."""
    import torch

    from guidebook.diffusion.objective import objective
    from guidebook.diffusion.solvers import times

    path, solver, walks = objective(run.params.objective, dtype=torch.float64), run.params.sample.solver, {}
    for steps in sorted({*STEPS, solver.steps}):
        t = times(path, solver.model_copy(update={"steps": steps}))
        scale = torch.ones_like(t) if path.scale is None else path.scale(t)
        *rows, image = zip(
            *(c.double().tolist() for c in (path.embed(t), scale, *path.mix(t), *path.target(t))), strict=True
        )
        walks[steps] = [*rows, [0, 1, *image[2:4], 0, 1]]
    return path.std, walks


def _graph(run: Run, tokens) -> bytes:
    """The network (x, t, tokens) → F of a batch of two as ONNX."""
    import onnx
    import torch

    from guidebook.conditioning.condition import Condition
    from guidebook.models.space import shape_of
    from guidebook.training.model import load_model

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = load_model(run, run.params.sample.weights)

        def forward(self, x, t, tokens):
            return self.net(x, t, Condition(tokens=tokens))

    file, names, given = (
        io.BytesIO(),
        ["x", "t", "tokens"],
        (torch.zeros(2, *shape_of(run.params)), torch.zeros(2), tokens.cpu()),
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no second compiler is not torch's newest
        torch.onnx.export(
            Network().eval(), given, file, input_names=names, output_names=["F"], opset_version=17, dynamo=False
        )
    model = onnx.load_model_from_string(file.getvalue())
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == "float32":
            rounded = (values.view("int32") + (1 << CUT - 1)) & -(1 << CUT)
            weight.CopyFrom(onnx.numpy_helper.from_array(rounded.view("float32"), weight.name))
    return model.SerializeToString()
