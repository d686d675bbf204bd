"""The nodes of guidance without training: what is known or wanted of a picture, and the GUIDER that brings it in."""
