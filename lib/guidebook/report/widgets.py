"""The guidance explorer: sliders that work on a built page, without a kernel."""

import io

import ipywidgets as widgets
from PIL import Image

from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet, mosaic

WIDE = {"continuous_update": True, "layout": widgets.Layout(width="min(100%, 34em)")}


def explorer(sets: list[ImageSet], captions: list[str], samples: int = 5) -> widgets.Widget:
    """Sliders over prompts and guidance scales that swap pre-rendered images.

    `sets` holds one set per guidance scale, image i showing caption i mod K. Every picture is in the page; the sliders are
    linked to it in the browser (`jslink`), so nothing needs a kernel.
    """

    def slider(names: list[str], what: str) -> widgets.Widget:
        options = [(name, i) for i, name in enumerate(names)]
        return widgets.SelectionSlider(options=options, description=what, **WIDE)

    prompt = slider([_plain(c) for c in captions], "prompt")
    scale = slider([f"{s.draw.guidance.w:g}" for s in sets], "w")
    scale.index = next((i for i, s in enumerate(sets) if s.draw.guidance.w == 1), 0)
    stacks = []
    for k in range(len(captions)):
        pictures = [_picture(s.pixels[k :: len(captions)][:samples]) for s in sets]
        stacks.append(widgets.Stack(pictures, selected_index=scale.index))
        widgets.jslink((scale, "index"), (stacks[-1], "selected_index"))
    outer = widgets.Stack(stacks, selected_index=0)
    widgets.jslink((prompt, "index"), (outer, "selected_index"))
    return widgets.VBox([prompt, scale, outer])


def live_explorer(run: Run) -> widgets.Widget:
    """A prompt, a guidance scale and a seed, sampled when the button is pressed. Needs a kernel and the run's weights."""
    prompt = widgets.Text(value=_plain(run.params.data.caption.replace("{label}", "7")), description="prompt", **WIDE)
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
