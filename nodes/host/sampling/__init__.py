"""This pack's samplers and guiders as SAMPLERs and GUIDERs of the host, and how runs go through them."""
