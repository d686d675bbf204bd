"""Networks that make what a UNet sees beside the noise."""
