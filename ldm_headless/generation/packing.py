"""Files that hold many images: WebDataset shards and npz. Imports files.png.

Both are written from PNGs one image at a time, so memory does not grow with their number, and always with the same
bytes for the same images.
"""

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files.png import read_png, read_png_info
from .job import png_name


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
