"""Pictures, masks and maps of labels as the channels that a UNet sees beside the noise."""
