"""Files that hold many images: WebDataset shards and npz. Imports files.png.

Both are written from PNGs one image at a time, so memory does not grow with their number, and always with the same
bytes for the same images.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files.png import read_png, read_png_info
from .job import Job, png_name
from .manifest import Entry


def write_tar(file: BinaryIO, folder: Path, seeds: Sequence[int]) -> None:
    """A WebDataset shard: for each seed `seed-N.png`, and `seed-N.json` with its settings.

    Args:
        file: Where to.
        folder: Holds `seed-N.png` for each seed.
        seeds: In order.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for seed in seeds:
            path = folder / png_name(seed)
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.json", read_png_info(path).encode())):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))


def tar_size(job: Job, seeds: Sequence[int], entries: Mapping[int, Entry]) -> int | None:
    """Bytes of the shard that `write_tar` writes; None where the size of a PNG is not known.

    Args:
        job: Of the folder.
        seeds: Of the shard.
        entries: What is known of its images.
    """
    sizes = []
    for seed in seeds:
        entry = entries[seed]
        if entry.size is None:
            return None
        sizes += [entry.size, len(json.dumps(job.info(seed, entry.machine)))]
    return padded_size(sizes)


def padded_size(sizes: Sequence[int]) -> int:
    """Bytes of a tar, as tarfile writes it, of files of these sizes."""
    blocks = sum(1 + -(-size // tarfile.BLOCKSIZE) for size in sizes) + 2
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def write_npz(file: BinaryIO, folder: Path, seeds: Sequence[int]) -> None:
    """What FID tools read: `arr_0`, uint8 (N, H, W, 3) in the order of the seeds, and beside it `seeds`, uint64 (N,).

    Args:
        file: Where to.
        folder: Holds `seed-N.png` for each seed.
        seeds: In order.
    """
    shape = (len(seeds), *read_png(folder / png_name(seeds[0])).shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for seed in seeds:
                member.write(read_png(folder / png_name(seed)).tobytes())
        with archive.open(zipfile.ZipInfo("seeds.npy"), "w") as member:
            np.lib.format.write_array(member, np.array(seeds, dtype=np.uint64))
