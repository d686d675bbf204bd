"""Pictures of texts beside transformers' tokenizer and diffusers' LDMTextToImagePipeline itself.

Tokens are the same to the number. Latents may differ by 1e-4, as in test_samplers.py and for its reasons: the
schedule's tables and coefficients in float32, and sums in another order, through the steps of a run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
    LDMTextToImagePipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from text_models import OWN, VOCABULARY, load_texts
from transformers import BertTokenizer

import ldm_backend
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.pipeline import decode_to_uint8, sample_latents
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.texts.tokeniser import Tokeniser
from ldm_backend.texts.vocabulary import bert_vocabulary

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SEEDS, STEPS = [3, 2**63, 11], 6
PROMPTS = ["a smiling woman with glasses", "A MAN, zebra", "a smiling woman with glasses"]

TEXTS = [
    *("", " ", "a", "A painting of a squirrel eating a burger", "Hello, world! It's 12:30 -- isn't it?"),
    *("Crème brûlée à la carte; naïve coöperation, Ångström, Øresund, ñandú", "e\u0301 vs \u00e9 vs E\u0301"),
    *(
        "一只猫坐在垫子上 and a cat",
        "日本語のテキスト かな カナ",
        "한국어 텍스트",
        "Привет, мир",
        "مرحبا بالعالم",
        "שלום עולם",
    ),
    *("\U0001f600 smile \U0001f468\u200d\U0001f469\u200d\U0001f467 family", "tab\tnew\nline\r\nreturn\x0bv\x0cf"),
    *(
        "nul\x00 bell\x07 esc\x1b del\x7f soft\u00adhyphen",
        "zero\u200bwidth \ufeffbom \u2028 line \u00a0 space\u3000wide",
    ),
    *("x" * 100, "x" * 101, "supercalifragilisticexpialidocious", "antidisestablishmentarianism " * 40),
    *("[CLS] [SEP] [MASK] [PAD] [UNK]", "[mask] [unused5] [sep]x", "a[SEP]b", "##ing un##able # ## ###"),
    *("\ufffd replaced", "İstanbul ŞIŞLI ı", "ﬁ ligature Ⅷ ½ ²", "ß ẞ STRASSE", "Ǆ ǆ ǅ", "math: ∑∫√ ≠ ≤ €£¥"),
    *("word " * 74, "word " * 75, "word " * 76, "word " * 500, "snow, " * 60, "o'clock rock'n'roll don't"),
    *("http://example.org/a?b=c&d=e#f", "C:\\path\\to_file.txt", "1,234.56e-7", "a\u0300\u0301\u0302\u0303 stacked"),
]


def theirs_of(words: tuple[str, ...]) -> Any:
    return BertTokenizer(vocab={word: at for at, word in enumerate(words)}, do_lower_case=True)


@pytest.fixture(scope="module")
def bert() -> Any:
    return theirs_of(bert_vocabulary().words)


@pytest.mark.parametrize("length", [3, 20, 77])
def test_tokens_are_those_of_transformers(bert, length):
    ours = Tokeniser(bert_vocabulary(), TextConfig(max_tokens=length))
    for text in TEXTS:
        expected = bert(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
        assert list(ours(text).ids) == expected, text


def test_tokens_of_random_texts_are_those_of_transformers(bert):
    """Any characters: of the first planes, and of small alphabets, where words repeat."""
    ours = Tokeniser(bert_vocabulary(), TextConfig())
    generator = torch.Generator().manual_seed(5)
    for most in (128, 0x250, 0x3100, 0xD800, 0x1F700):
        for _ in range(60):
            places = torch.randint(0, most, (40,), generator=generator).tolist()
            text = "".join(chr(at) for at in places if not 0xD800 <= at < 0xE000)
            expected = bert(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
            assert list(ours(text).ids) == expected, text


def test_tokens_of_a_small_vocabulary_are_those_of_transformers():
    theirs = theirs_of(VOCABULARY.words)
    assert isinstance(OWN.conditioning, TextConfig)
    ours = Tokeniser(VOCABULARY, OWN.conditioning)
    for text in (*PROMPTS, "Café glasses", "reds reddish redder", "[UNK] [PAD]", "a. b, c"):
        expected = theirs(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
        assert list(ours(text).ids) == expected, text


class Both:
    """A model here, and the whole pipeline in diffusers, of the folder that we wrote."""

    def __init__(self, folder: Path) -> None:
        self.ours = load_texts(folder / "folder")
        self.pipeline: Any = LDMTextToImagePipeline.from_pretrained(folder / "folder")
        self.pipeline.set_progress_bar_config(disable=True)

    def latents(self, cfg: float, eta: float) -> Any:
        """What the pipeline's decoder is given, of all images in one batch, each with the noise of its own seed."""
        caught: list[torch.Tensor] = []

        def caught_instead(z: torch.Tensor) -> Any:
            caught.append(z)
            raise StopIteration

        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        x_T = torch.cat([torch.randn((1, 3, 8, 8), generator=one) for one in generators])
        self.pipeline.scheduler.step = self._with_noise_of(generators)
        decode, self.pipeline.vqvae.decode = self.pipeline.vqvae.decode, caught_instead
        try:
            self.pipeline(PROMPTS, 64, 64, STEPS, guidance_scale=cfg, eta=eta, latents=x_T)
        except StopIteration:
            return caught[0]
        finally:
            self.pipeline.vqvae.decode = decode
            del self.pipeline.scheduler.step
        raise AssertionError

    def _with_noise_of(self, generators: list[torch.Generator]) -> Any:
        step = self.pipeline.scheduler.step

        def with_noise(eps: Any, t: Any, x: Any, eta: float) -> Any:
            noise = torch.cat([torch.randn((1, 3, 8, 8), generator=one) for one in generators]) if eta else None
            return step(eps, t, x, eta=eta, variance_noise=noise)

        return with_noise


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize(("cfg", "eta"), [(1.0, 0.0), (5.0, 0.0), (2.5, 1.0), (0.0, 0.0)])
def test_the_whole_loop_is_that_of_the_pipeline(both, cfg, eta):
    expected = both.latents(cfg, eta)
    found = sample_latents(both.ours, SEEDS, STEPS, eta, prompts=PROMPTS, cfg=cfg)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_pictures_are_those_of_the_pipeline(both):
    """Less than a level of 255, so that rounding makes it at most one."""
    x_T = draw_noise(SEEDS, (3, 8, 8))
    images = both.pipeline(PROMPTS, 64, 64, STEPS, guidance_scale=2.0, latents=x_T, output_type="np").images
    found = ldm_backend.generate(both.ours, SEEDS, STEPS, prompts=PROMPTS, cfg=2.0)
    difference = torch.from_numpy(found).float() - 255 * torch.from_numpy(images)
    assert float(difference.abs().max()) < 1.01


def small_pipeline(words: tuple[str, ...]) -> Any:
    """As a training with diffusers leaves it, with its own settings where ours are others."""
    torch.manual_seed(2)
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return LDMTextToImagePipeline(
        vqvae=VQModel(
            block_out_channels=(32, 32), latent_channels=3, num_vq_embeddings=16, scaling_factor=1.0, **levels
        ),
        bert=LDMBertModel(
            LDMBertConfig(
                vocab_size=len(words),
                d_model=16,
                encoder_layers=1,
                encoder_ffn_dim=64,
                encoder_attention_heads=4,
                head_dim=8,
            )
        ).eval(),
        tokenizer=theirs_of(words),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            layers_per_block=1,
        ).eval(),
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
    )


@pytest.mark.parametrize("words", [VOCABULARY.words, (*VOCABULARY.words, "[MASK]")], ids=["without mask", "with mask"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_that_diffusers_saved(tmp_path, words, safe):
    with torch.random.fork_rng():
        pipeline = small_pipeline(words)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "saved")
    if not safe:  # as of 2022, whose tokenizers have their words in vocab.txt
        bert = tmp_path / "saved" / "bert"
        torch.save(pipeline.bert.state_dict(), bert / "pytorch_model.bin")
        (bert / "model.safetensors").unlink()
        (tmp_path / "saved" / "tokenizer" / "tokenizer.json").unlink()
        (tmp_path / "saved" / "tokenizer" / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    model = ldm_backend.load(tmp_path / "saved", "cpu")
    x_T = draw_noise(SEEDS, (3, 8, 8))
    expected = pipeline(PROMPTS, 64, 64, STEPS, guidance_scale=3.0, latents=x_T, output_type="np").images
    found = decode_to_uint8(model, sample_latents(model, SEEDS, STEPS, prompts=PROMPTS, cfg=3.0))
    assert float((torch.from_numpy(found).float() - 255 * torch.from_numpy(expected)).abs().max()) < 1.01


def test_transformers_reads_the_vocabulary_that_we_write(both):
    assert isinstance(OWN.conditioning, TextConfig)
    ours = Tokeniser(VOCABULARY, replace(OWN.conditioning, max_tokens=10))
    for text in PROMPTS:
        theirs = both.pipeline.tokenizer(text, padding="max_length", max_length=10, truncation=True)["input_ids"]
        assert list(ours(text).ids) == theirs
