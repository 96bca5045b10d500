"""The catalog of data sets: what they are called on the hub and what they hold. Imports no torch.

A new set is an entry of `CATALOG` and the recipe of its judge in `metrics.judge`. Its files are called `train-*.parquet` and
`<test_split>-*.parquet`, with a column of images as the hub writes them and a column of whole-number labels (or forty booleans, CelebA's attributes). A set
that fits into memory has images of one shape; `mapped` ones have any, and are decoded once; `window` ones are streamed while training goes on, and
every tenth row is held out. `train` is counted: training refuses another number, unless `data.subset` declares it. A set drawn by code is a file in `data.drawn` and a line in `data.images`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from guidebook.config.errors import nearest, shown
from guidebook.config.section import Section, Tuple

HELD = 10  # where the hub has no test split, every tenth row is held out


class DataError(RuntimeError):
    """A data set that is not available or does not hold what it should."""


@dataclass(frozen=True)
class Entry:
    """One data set. `stand_in` is None for an embedded set, which comes inside a dependency or is drawn by code."""

    classes: tuple[str, ...]  # or attributes
    channels: int
    train: int  # rows; of a streamed set those that an epoch counts, of which the files may hold a few more or fewer
    test: int
    note: str  # one sentence for the provenance and under figures
    hub: str | None = None  # where it is downloaded from; None is nowhere
    stand_in: str | None = None  # the embedded set for those without internet
    revision: str | None = None  # the commit of the hub's repository; None is its newest, which is noted
    image: str = "image"  # column of the images
    label: str | tuple[str, ...] = "label"  # column of the class index; of faces, the columns of the attributes
    codec: str | None = None  # of the image files that the hub publishes, where it is lossless
    bad_share: float = 0.001  # of the rows, that may be skipped: too few to move a result
    window: int | None = None  # rows of the shuffle buffer of a streamed set; every tenth row is its test split
    test_split: str = "test"  # what the hub calls it
    mapped: bool = False  # too large for memory: decoded once, into a memory-mapped file
    mixed: str = ""  # what the published split keeps apart and that of a subset may not, for its note
    numbers: tuple[int, ...] | None = None  # of the classes, in the files; None is 0, 1, …
    captioned: bool = False  # a label is a caption's number; `classes` are the first, for which samples are drawn

    @property
    def attributes(self) -> bool:
        """The kind of labels: sets of attributes, the bits of an integer, and not one class each."""
        return isinstance(self.label, tuple)

    @property
    def labels(self) -> Sequence[int]:
        """The numbers in the files, in the order of the classes; of attributes, every combination."""
        return self.numbers or range(2 ** len(self.classes) if self.attributes else len(self.classes))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, as the hub's files begin with them."""
        return ("train",) if self.window else ("train", self.test_split)


DIGITS = tuple("0123456789")
SCENES = ("ball", "box", "triangle", "star", "heart", "ring", "cross", "moon", "fish", "mushroom")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# In the hub's label order, with spaces for its underscores
CIFAR100 = (
    "apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy", "bridge",
    "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach",
    "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn mower", "leopard", "lion", "lizard", "lobster", "man", "maple tree", "motorcycle",
    "mountain", "mouse", "mushroom", "oak tree", "orange", "orchid", "otter", "palm tree", "pear", "pickup truck", "pine tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
    "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet pepper", "table",
    "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow tree",
    "wolf", "woman", "worm",
)  # fmt: skip
# By superclass. A subset of the set has those of its classes
SUPERCLASSES = {"cifar100": {
    "aquatic mammals": ("beaver", "dolphin", "otter", "seal", "whale"), "fish": ("aquarium fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"), "food containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit and vegetables": ("apple", "mushroom", "orange", "pear", "sweet pepper"),
    "household electrical devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large man-made outdoor things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large natural outdoor scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large omnivores and herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium-sized mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect invertebrates": ("crab", "lobster", "snail", "spider", "worm"), "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"), "small mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple tree", "oak tree", "palm tree", "pine tree", "willow tree"),
    "vehicles 1": ("bicycle", "bus", "motorcycle", "pickup truck", "train"),
    "vehicles 2": ("lawn mower", "rocket", "streetcar", "tank", "tractor"),
}}  # fmt: skip
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
IMAGENETTE = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
)  # fmt: skip
# Attributes of a face, as in CelebA's files and in their order
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
# Of two attributes that contradict each other the former counts: it is drawn and mentioned. From the first to the last
SILENCES = {
    "Bald": ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair", "Bangs",
             "Receding_Hairline"),
    "Gray_Hair": ("Blond_Hair", "Black_Hair", "Brown_Hair"), "Blond_Hair": ("Black_Hair", "Brown_Hair"),
    "Black_Hair": ("Brown_Hair",), "Straight_Hair": ("Wavy_Hair",), "Bangs": ("Receding_Hairline",),
    "Arched_Eyebrows": ("Bushy_Eyebrows",),
}  # fmt: skip

CATALOG = {
    "digits": Entry(
        DIGITS, 1, 1437, 360, "digits: scikit-learn's 1,797 handwritten digits of 8×8 pixels, a small stand-in for MNIST",
    ),
    "mnist": Entry(
        DIGITS, 1, 60_000, 10_000, "MNIST: 60,000 training and 10,000 test images",
        "ylecun/mnist", "digits", "77f3279092a1c1579b2250db8eafed0ad422088c", codec="PNG",
    ),
    "scenes": Entry(
        SCENES, 3, 8000, 2000, "scenes: 8,000 training and 2,000 test images of one coloured object of ten kinds, drawn by "
        "code from a seed, a small stand-in for photographs",
    ),
    "cifar10": Entry(
        CIFAR10, 3, 50_000, 10_000, "CIFAR-10: 50,000 training and 10,000 test photographs",
        "uoft-cs/cifar10", "scenes", "0b2714987fa478483af9968de7c934580d0bb9a2", "img", codec="PNG",
    ),
    "cifar100": Entry(
        CIFAR100, 3, 50_000, 10_000, "CIFAR-100: 50,000 training and 10,000 test photographs in 100 classes",
        "uoft-cs/cifar100", "scenes", "aadb3af77e9048adbea6b47c21a81e47dd092ae5", "img", "fine_label", codec="PNG",
    ),
    "paintings": Entry(
        STYLES, 3, 1944, 216, "paintings: 1,944 training and 216 test paintings of about 1640×1627 pixels in 27 styles, drawn "
        "by code from a seed, a small stand-in for WikiArt", label="style", bad_share=0.005, window=1000,
    ),
    "wikiart": Entry(
        STYLES, 3, 72_900, 8_100, "WikiArt: about 81,000 paintings in 27 styles, every tenth of them held out as the test split",
        "huggan/wikiart", "paintings", label="style", window=2000,
    ),
    "faces": Entry(
        ATTRIBUTES, 3, 6000, 1000, "faces: 6,000 training and 1,000 test faces drawn by code from CelebA's 40 attributes, a "
        "small stand-in for CelebA", label=ATTRIBUTES,
    ),
    "celeba": Entry(
        ATTRIBUTES, 3, 162_770, 19_962, "CelebA: 162,770 training and 19,962 test photographs, of other "
        "people; the hub's 19,867 of the split valid are not used", "flwrlabs/celeba", "faces",
        "2d738f56e0e7f925ea36ae7c808ea925264aacec", label=ATTRIBUTES, mapped=True,
        mixed=", so photographs of one person may stand in both splits",
    ),
    "imagenet100": Entry(
        IMAGENET100, 3, 126_689, 5_000, "ImageNet-100: 126,689 training and 5,000 test photographs of 100 classes",
        "clane9/imagenet-100", "scenes", "0519dc2f402a3a18c6e57f7913db059215eee25b",
        test_split="validation", mapped=True,
    ),
    "imagenette": Entry(
        IMAGENETTE, 3, 9_469, 3_925, "Imagenette: 9,469 training and 3,925 test photographs of ten classes of ImageNet that are "
        "easy to tell apart, none of its usual hundred or thousand", stand_in="scenes", mapped=True,
    ),
}  # fmt: skip


def superclasses(name: str, classes: Sequence[str]) -> list[int]:
    """The number of each class's superclass; none where the set has no superclasses."""
    of = {own: i for i, members in enumerate(SUPERCLASSES.get(name, {}).values()) for own in members}
    return [of[one] for one in classes] if of else []


class Subset(Section):
    """A part of a published data set that is trained on by intent: the rows and classes that parquet files of its layout hold.
    Training refuses files that hold others."""

    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")] | None = None  # None is the set's name
    train: Annotated[int, Field(ge=1)]  # rows; of a streamed set those that are not held out
    test: Annotated[int, Field(ge=1)] | None = None  # None for a streamed set, of which every tenth row is held out
    # The only classes that occur; None is all of the set
    classes: Annotated[tuple[str, ...], Tuple(2, 1000)] | None = None

    def entry(self, name: str) -> Entry:
        """The catalog's entry for this part of the set `name`."""
        published, classes = CATALOG[name], self.classes
        test = self.test or self.train // 9
        few = f", {len(classes)} of its {len(published.classes)} classes" if classes else ""
        note = (
            f"a subset of {name}: {self.train:,} training images, {percent(self.train, published.train)} of the published "
            f"{published.train:,}{few}, and {test:,} test images, in a split of its own{published.mixed}"
        )
        numbers = classes and tuple(map(published.classes.index, classes))
        rows = {"train": self.train, "test": test}
        return replace(published, **rows, classes=classes or published.classes, numbers=numbers, note=note)

    def misfits(self, name: str) -> Iterator[str]:
        """Why this cannot be a part of the set `name`."""
        published = CATALOG[name]
        if published.stand_in is None and (self.folder or not self.classes):
            yield f"data.subset of data.name = {name}, which is made by code, names classes and no folder: for fewer images set data.limit"
        if bool(self.test) == bool(published.window):
            rule = "is not taken, as every tenth row is held out," if self.test else "is missing"
            yield f"data.subset.test {rule} for data.name = {name}"
        if self.train > published.train:
            yield f"data.subset.train = {self.train} is more than the published {published.train}"
        if self.classes and published.attributes:
            yield f"data.subset.classes are not for data.name = {name}, which has attributes"
        for one in self.classes or ():
            if one not in published.classes or self.classes.count(one) > 1:
                near = nearest(one, list(published.classes))
                yield f"data.subset.classes: {shown(one)} is no class of {name}, or is named twice{near}"


def percent(rows: float, published: float) -> str:
    """A share in per cent, of two digits."""
    return f"{float(f'{100 * rows / published:.2g}'):g} %"
