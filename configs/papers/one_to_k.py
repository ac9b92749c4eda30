"""1-to-K (Nie et al. 2024): an image against its texts in all languages at once, so that all find it alike.

New: the loss with K targets, `bigcl/losses/one_to_k.py`, and the mean rank variance of `bigcl/evals/multilingual.py`.

    python -m bigcl.reproduce one-to-k
    python -m bigcl.train --config configs/papers/one_to_k.py --workdir runs/one_to_k

Left out: the encoder that fuses both sides, with its matching loss and its masked language model.

The claim is of emoji named in six languages: how much the rank of a held-out emoji depends on the language asked in.
The texts are bags of tokens of one byte-level vocabulary; nine runs of seconds each. Seen, of three seeds, the mean
rank variance of text to image and the mean recall@10: 3,105 and 0.15 with a random language, 2,403 and 0.26 with
English as pivot, 1,388 and 0.30 by the method.
"""

from configs.papers import base

LANGUAGES = ("en", "de", "fr", "es", "ja", "zh")
PUBLISHED = ("en", "zh", "de", "fr", "ja", "cs", "id", "es", "ru", "tr")
LENGTH = 24


def get_config(arg=None):
    """Arguments: `method`, `baseline` (an image and its text in a random language), `pivot` (an image and its English
    text, that and the other languages), `paper` (ten languages, batch 128; its `data`, whose `names` are texts by
    language, and `tokenizer`), `smoke`, `seed=0`."""
    arg = base.parse_variant(arg, "method", "baseline", "pivot", "paper", data="", tokenizer="")
    if arg.variant == "paper":
        return paper(arg)
    c = base.emoji(arg, steps=400, batch=64, length=LENGTH)
    c.tokenizer.update(key="names", vocab_size=4096)
    towers = c.task.towers.to_dict()
    c.task.towers = {"image": towers["image"], "en": towers["text"], **dict.fromkeys(LANGUAGES[1:], "en")}
    c.data.transforms = [*base.pictures(), *captions(LANGUAGES, LENGTH)]
    if arg.variant == "baseline":
        c.task.towers = {k: c.task.towers[k] for k in ("image", "en")}
        chosen = {"kind": "choose_text", "key": LANGUAGES, "out": "en"}
        c.data.transforms = [*base.pictures(), texts(LANGUAGES), chosen, base.words("en", LENGTH), kept(["en"])]
    c.task.losses = losses(arg.variant)
    options = {"query": "en", "languages": LANGUAGES, "length": LENGTH}
    c.evals = {"unseen": base.held_out("multilingual", [kept([])], **options)}
    c.evals.seen = base.held_out("multilingual", [kept([])], **options)
    c.evals.seen.source = {"kind": "noisy", "source": {"kind": "emoji", "size": 32}, "keep": 0.14, "seed": arg.seed}
    return c


def losses(variant):
    """What is compared with what."""
    image = {"kind": "infonce", "of": ["image", "en"]}
    if variant == "baseline":
        return [image]
    if variant == "pivot":
        others = LANGUAGES[1:]
        return [image, *({"kind": "infonce", "of": ["en", k], "weight": 1 / len(others)} for k in others)]
    return [{"kind": "one_to_k", "of": ["image", *LANGUAGES]}]


def texts(languages):
    """Texts by language, each at a key of its own."""
    return {"kind": "keep", "keys": {"image": "image", **{k: f"names/{k}" for k in languages}}}


def kept(languages):
    """The picture and the texts that are read."""
    return {"kind": "keep", "keys": ["image", *languages]}


def captions(languages, length):
    """Tokens of the texts in all languages."""
    return [texts(languages), *(base.words(k, length) for k in languages)]


def paper(arg):
    """Published batch, schedule and text tower, the first 12 layers of XLM-R-large: 30 epochs of 1,863,804 images; a
    ViT-B/32 stands for the Swin-B. Sharded, for each language has a gradient of 250,002 embeddings."""
    c = base.published(arg, PUBLISHED, size="B/32", batch=128, steps=436_800)
    text = c.task.towers[PUBLISHED[0]]
    text.update(**base.BERT, pad_id=1)
    c.task.losses = [{"kind": "one_to_k", "of": ["image", *PUBLISHED]}]
    c.task.init_scale = 1 / 0.07
    c.optim.update(lr=1e-4, weight_decay=0.01, clip_norm=1.0)
    c.optim.schedule = {"kind": "linear", "warmup": 1 if arg.smoke else 13_000}
    if not arg.smoke:
        c.mesh = {"data": 1, "fsdp": -1}
        text.update(variant="SigLIP-L", depth=12, vocab=250_002, length=40, embed_dim=256)
        c.task.towers.image.embed_dim = 256
        c.data.transforms = [c.data.transforms[0], *captions(PUBLISHED, 40)]
    return c


CLAIM = {
    "runs": ["baseline", "pivot", "method"],
    "seeds": [0, 1, 2],
    "demands": [
        {"metric": f"unseen/{metric}", **way, **demand}
        for metric, demand, how in (
            ("mean_rank_variance/en_to_image", {"at_most": 0.85}, "over"),
            ("mean/en_to_image/recall@10", {"at_least": 0.0}, "minus"),
        )
        for way in ({how: "baseline"}, {how: "pivot"})
    ],
}
