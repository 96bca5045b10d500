"""Sampling in JupyterLab: widgets that need a kernel and the weights of a run."""

import io

import ipywidgets as widgets
from PIL import Image

from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.grammar import bits
from guidebook.runs.run import Run
from guidebook.sampling.sets import mosaic

WIDE = {"continuous_update": True, "layout": widgets.Layout(width="min(100%, 34em)")}


def live_explorer(run: Run) -> widgets.Widget:
    """A prompt, a guidance scale and a seed, sampled when the button is pressed. Needs a kernel and the run's weights."""
    label = bits(["Smiling", "Young"]) if run.params.data.entry.attributes else 0
    prompt = widgets.Text(value=_plain(caption_of(run.params, label, 0)), description="prompt", **WIDE)
    scale = widgets.FloatSlider(value=3, min=0, max=20, step=0.5, description="w", **WIDE)
    seed = widgets.IntText(value=0, description="seed", layout=widgets.Layout(width="12em"))
    button, place = widgets.Button(description="draw five", button_style="primary"), widgets.VBox()

    def press(_):
        from guidebook.sampling.sampler import draw_now

        button.disabled = True
        try:
            seeds = range(5 * seed.value, 5 * seed.value + 5)
            place.children = [_picture(draw_now(run, [prompt.value] * 5, [scale.value] * 5, seeds))]
        except Exception as error:  # shown where the picture would be: a callback has no other place
            place.children = [widgets.Label(str(error))]
        finally:
            button.disabled = False

    button.on_click(press)
    return widgets.VBox([prompt, scale, widgets.HBox([seed, button]), place])


def _plain(text: str) -> str:
    """A caption that is safe in a page's widget state, where `</script>` would end the script."""
    return text.replace("<", "‹").replace(">", "›")


def _picture(images) -> widgets.Image:
    file = io.BytesIO()
    Image.fromarray(mosaic(images, columns=len(images), tile=96, gap=6)).save(file, "PNG")
    return widgets.Image(value=file.getvalue(), format="png", layout=widgets.Layout(width="min(100%, 36em)"))
