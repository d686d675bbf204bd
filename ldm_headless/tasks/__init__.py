"""The pictures of `ldm upscale`, `ldm inpaint` and `ldm restore`, made of pictures without any ComfyUI."""
