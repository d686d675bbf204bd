"""From pictures to pictures: super-resolution, inpainting and semantic synthesis, wired for use without a host."""
