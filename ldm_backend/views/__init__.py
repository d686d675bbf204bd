"""What people look at: images, contact sheets, codes and previews."""
