"""The catalog of data sets: what they are called on the hub, what they hold and where they are. Imports no torch.

A new set is an entry of `CATALOG`, its name in `config.schema.Data`, the recipe of its judge in `metrics.judge` and, if the hub has it, a
stand-in in `data.hub`. Parquet files of the hub need no further code; a set drawn by code is a file in `data.drawn` and a line in
`data.images.load`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from guidebook.config.paths import local_data

SPLITS = ("train", "test")


class DataError(RuntimeError):
    """A data set that is not available or does not hold what it should."""


@dataclass(frozen=True)
class Entry:
    """One data set. `hub` is None for an embedded set, which comes inside a dependency or is drawn by code."""

    classes: tuple[str, ...]  # or attributes
    channels: int
    train: int  # rows; of a streamed set those that an epoch counts, of which the files may hold a few more or fewer
    test: int
    note: str  # one sentence for the provenance and under figures
    hub: str | None = None
    revision: str | None = None  # the commit of the hub's repository; None is its newest, which is noted
    image: str = "image"  # column of the images
    label: str | tuple[str, ...] = "label"  # column of the class index; of faces, the columns of the attributes
    codec: str | None = None  # of the image files that the hub publishes, where it is lossless
    bad_share: float = 0.001  # of the rows, that may be skipped: too few to move a result
    window: int | None = None  # rows of the shuffle buffer of a streamed set, which has no test split
    tests: str = "test"  # what the hub calls the test split
    mapped: bool = False  # too large for memory: decoded once, into a memory-mapped file

    @property
    def attributes(self) -> bool:
        """Whether a label is a set of attributes, the bits of an integer, and not one class."""
        return isinstance(self.label, tuple)


DIGITS = tuple("0123456789")
SCENES = ("ball", "box", "triangle", "star", "heart", "ring", "cross", "moon", "fish", "mushroom")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STYLES = (
    "Abstract Expressionism", "Action Painting", "Analytical Cubism", "Art Nouveau Modern", "Baroque", "Color Field Painting",
    "Contemporary Realism", "Cubism", "Early Renaissance", "Expressionism", "Fauvism", "High Renaissance", "Impressionism",
    "Mannerism Late Renaissance", "Minimalism", "Naive Art Primitivism", "New Realism", "Northern Renaissance", "Pointillism",
    "Pop Art", "Post Impressionism", "Realism", "Rococo", "Romanticism", "Symbolism", "Synthetic Cubism", "Ukiyo-e",
)  # fmt: skip
# The first name of each class, in the hub's label order
IMAGENET100 = (
    "bonnet", "green mamba", "langur", "Doberman", "gyromitra", "Saluki", "vacuum", "window screen", "cocktail shaker",
    "garden spider", "garter snake", "carbonara", "pineapple", "computer keyboard", "tripod", "komondor", "American lobster",
    "bannister", "honeycomb", "tile roof", "papillon", "boathouse", "stinkhorn", "jean", "Chihuahua",
    "Chesapeake Bay retriever", "robin", "tub", "Great Dane", "rotisserie", "bottlecap", "throne", "little blue heron",
    "rock crab", "Rottweiler", "lorikeet", "Gila monster", "head cabbage", "car wheel", "coyote", "moped", "milk can",
    "mixing bowl", "toy terrier", "chocolate sauce", "rocking chair", "wing", "park bench", "ambulance", "football helmet",
    "leafhopper", "cauliflower", "pirate", "purse", "hare", "lampshade", "fiddler crab", "standard poodle", "Shih-Tzu",
    "pedestal", "gibbon", "safety pin", "English foxhound", "chime", "American Staffordshire terrier", "bassinet",
    "wild boar", "theater curtain", "dung beetle", "hognose snake", "Mexican hairless", "mortarboard", "Walker hound",
    "red fox", "modem", "slide rule", "walking stick", "cinema", "meerkat", "kuvasz", "obelisk", "harmonica", "sarong",
    "mousetrap", "hard disc", "American coot", "reel", "pickup", "iron", "tabby", "ski mask", "vizsla", "laptop", "stretcher",
    "Dutch oven", "African hunting dog", "boxer", "gasmask", "goose", "borzoi",
)  # fmt: skip
# Attributes of a face, as in CelebA's files and in their order
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip

CATALOG = {
    "digits": Entry(
        DIGITS, 1, 1437, 360, "digits: scikit-learn's 1,797 handwritten digits of 8×8 pixels, a small stand-in for MNIST",
    ),
    "mnist": Entry(
        DIGITS, 1, 60_000, 10_000, "MNIST: 60,000 training and 10,000 test images of 28×28 pixels",
        "ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", codec="PNG",
    ),
    "scenes": Entry(
        SCENES, 3, 8000, 2000, "scenes: 8,000 training and 2,000 test images of one coloured object of ten kinds, drawn by "
        "code from a seed, a small stand-in for photographs",
    ),
    "cifar10": Entry(
        CIFAR10, 3, 50_000, 10_000, "CIFAR-10: 50,000 training and 10,000 test photographs of 32×32 pixels",
        "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2", "img", codec="PNG",
    ),
    "paintings": Entry(
        STYLES, 3, 1944, 216, "paintings: 1,944 training and 216 test paintings of about 1640×1627 pixels in 27 styles, drawn "
        "by code from a seed, a small stand-in for WikiArt", label="style", bad_share=0.005, window=1000,
    ),
    "wikiart": Entry(
        STYLES, 3, 72_900, 8_100, "WikiArt: about 81,000 paintings in 27 styles, every tenth of them held out as the test split",
        "huggan/wikiart", label="style", window=2000,
    ),
    "faces": Entry(
        ATTRIBUTES, 3, 6000, 1000, "faces: 6,000 training and 1,000 test faces drawn by code from CelebA's 40 attributes, a "
        "small stand-in for CelebA", label=ATTRIBUTES,
    ),
    "celeba": Entry(
        ATTRIBUTES, 3, 162_770, 19_962, "CelebA: 162,770 training and 19,962 test photographs of 178×218 pixels, of other "
        "people; the hub's 19,867 of the split valid are not used", "flwrlabs/celeba",
        "2d738f56e0e7f925ea36ae7c808ea925264aacec", label=ATTRIBUTES, mapped=True,
    ),
    "imagenet100": Entry(
        IMAGENET100, 3, 126_689, 5_000, "ImageNet-100: 126,689 training and 5,000 test photographs of 100 classes, whose "
        "shorter side has 160 pixels", "clane9/imagenet-100", "0519dc2f402a3a18c6e57f7913db059215eee25b",
        tests="validation", mapped=True,
    ),
}  # fmt: skip


def available(name: str) -> bool:
    """Whether a data set needs no download: it is embedded, or its files are all on this machine."""
    folder = local_data(name)
    return CATALOG[name].hub is None or (whole(folder, name) if folder else snapshot(name) is not None)


def snapshot(name: str) -> Path | None:
    """The folder of a complete data set in the hub's cache, at its pinned revision or else at the cache's `main`; no network."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    entry = CATALOG[name]
    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=entry.hub, repo_type="dataset")
    newest = place / "refs" / "main"
    revision = entry.revision or (newest.read_text().strip() if newest.is_file() else "none")
    folder = place / "snapshots" / revision
    return folder if whole(folder, name) else None


def whole(folder: Path, name: str) -> bool:
    """Whether a folder holds every parquet file of the set's splits."""
    entry = CATALOG[name]
    return all(parquet_files(folder, split)[1] for split in (("train",) if entry.window else ("train", entry.tests)))


def parquet_files(folder: Path, split: str) -> tuple[list[Path], bool]:
    """`<split>-*.parquet` below a folder, and whether none is missing of files numbered as in `train-00000-of-00003.parquet`."""
    files = sorted(f for f in folder.rglob(f"{split}-*.parquet") if f.is_file())  # a link into nothing is no file
    parts = [re.search(r"-(\d+)-of-(\d+)\.parquet$", f.name) for f in files]
    if not all(parts):
        return files, bool(files)
    numbers, totals = [int(p[1]) for p in parts], {int(p[2]) for p in parts}
    return files, len(totals) == 1 and numbers == list(range(*totals))


def allow(skipped: list[str], n: int, rows: int, share: float, where: str) -> str:
    """The warning that names some of the `n` images skipped of `rows`. Raises DataError where they are more than the share."""
    named = "; ".join(skipped[:5]) + ("; …" if n > 5 else "")
    many = f"{where}: {n:,} of {rows:,} images ({n / rows:.2%}) cannot be read"
    if n > share * rows:
        raise DataError(f"{many}, {share:.2%} may be skipped: {named}; replace the files")
    return f"{many} and are skipped: {named}"
