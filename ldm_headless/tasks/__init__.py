"""The pictures of `ldm upscale` and `ldm inpaint`, made of pictures without any ComfyUI."""
